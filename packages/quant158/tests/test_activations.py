"""Laws of rounded activations, against arithmetic on single numbers of fp32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.hooks.contracts import QuantizesInput
from penstock.quant158.activations import rounded_tokens
from penstock.quant158.integers import Int8Quantizer
from penstock.quant158.learned import LearnedTernaryQuantizer
from penstock.quant158.ternary import TernaryQuantizer


def rounded_by_hand(row: np.ndarray) -> np.ndarray:
    largest = np.float32(np.abs(row).max())
    if largest < 1e-30:
        return np.zeros_like(row)
    up, down = np.float32(127) / largest, largest / np.float32(127)
    return np.array([np.clip(np.rint(value * up), -127, 127) * down for value in row], dtype=np.float32)


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-31, 1e-20, 1.0, 1e30])
def test_each_row_is_whole_numbers_times_a_127th_of_its_largest(size: float):
    x = torch.randn(5, 33, generator=torch.Generator().manual_seed(0)) * size
    expected = np.stack([rounded_by_hand(row) for row in x.numpy()])
    np.testing.assert_array_equal(rounded_tokens(x).numpy(), expected)
    levels = (rounded_tokens(x) / (x.abs().amax(-1, keepdim=True) / 127)).nan_to_num(0)
    assert (levels - levels.round()).abs().max() < 1e-4 or size < 1e-30


def test_tokens_are_rounded_one_by_one_whatever_their_shape():
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    apart = torch.stack([rounded_tokens(row) for row in x.flatten(0, 1)]).view_as(x)
    assert torch.equal(rounded_tokens(x), apart)


def test_the_gradient_passes_unchanged():
    x, upstream = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    rounded_tokens(x).backward(upstream)
    assert torch.equal(x.grad, upstream)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_in_fp32_and_cast(dtype: torch.dtype):
    x = torch.randn(4, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(rounded_tokens(x), rounded_tokens(x.float()).to(dtype))


def test_divergence_stays_visible_in_its_token_and_only_there():
    x = torch.randn(2, 4)
    x[1, 2] = float("inf")
    assert not rounded_tokens(x)[1].isfinite().all()
    assert rounded_tokens(x)[0].isfinite().all()


@pytest.mark.parametrize("make", [TernaryQuantizer, LearnedTernaryQuantizer, Int8Quantizer])
def test_a_quantizer_rounds_its_input_only_if_asked(make: type[TernaryQuantizer]):
    x = torch.randn(3, 8)
    plain, rounding = make(), make(activations="int8")
    assert isinstance(plain, QuantizesInput)
    assert plain.input_bits is None
    assert plain.input(x) is x
    assert rounding.input_bits == 8
    assert torch.equal(rounding.input(x), rounded_tokens(x))


def test_it_is_captured_whole_by_torch_compile():
    x = torch.randn(3, 8, requires_grad=True)
    result = torch.compile(rounded_tokens, backend="aot_eager", fullgraph=True)(x)
    result.sum().backward()
    assert torch.equal(result, rounded_tokens(x))
    assert torch.equal(x.grad, torch.ones_like(x))  # pyright: ignore[reportArgumentType]
