"""Products equal `F.linear` in value and gradient, whichever library computes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.moe_core.layers import matmul as products


@pytest.mark.parametrize("shape", [(7, 24), (2, 3, 24), (24,)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("onednn", [True, False])
def test_value_and_gradients_are_those_of_linear(
    shape: tuple[int, ...], with_bias: bool, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if onednn and not products.ONEDNN:
        pytest.skip("not an AMD processor with AVX-512, or a build of torch without oneDNN")
    monkeypatch.setattr(products, "ONEDNN", onednn)
    torch.manual_seed(0)
    operands = [torch.randn(shape), torch.randn(16, 24), *([torch.randn(16)] if with_bias else [])]
    grad = torch.randn(*shape[:-1], 16)
    for ours, plain in zip(
        _with_gradients(products.linear, operands, grad), _with_gradients(F.linear, operands, grad), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left_to_torch(dtype: torch.dtype) -> None:
    x, weight = torch.randn(5, 8, dtype=dtype), torch.randn(4, 8, dtype=dtype)
    assert torch.equal(products.linear(x, weight), F.linear(x, weight))
    assert torch.equal(products.rows_times_transposed(x, weight), x @ weight.T)


def test_no_rows_give_no_rows_and_a_gradient_of_zeros() -> None:
    weight = torch.randn(4, 8, requires_grad=True)
    y = products.linear(torch.empty(0, 8), weight)
    assert y.shape == (0, 4)
    (grad,) = torch.autograd.grad(y.sum(), weight)
    assert torch.equal(grad, torch.zeros(4, 8))


def test_rows_times_transposed_takes_a_transposed_weight() -> None:
    x, weight = torch.randn(5, 8), torch.randn(8, 4)
    torch.testing.assert_close(products.rows_times_transposed(x, weight.T), x @ weight)


def test_only_the_gradients_that_are_asked_for_are_computed() -> None:
    x, weight = torch.randn(5, 8), torch.randn(4, 8, requires_grad=True)
    products.linear(x, weight).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def _with_gradients(linear: Callable[..., Tensor], operands: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [operand.clone().requires_grad_() for operand in operands]
    y = linear(*leaves)
    return y, *torch.autograd.grad(y, leaves, grad)
