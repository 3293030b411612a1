"""Products of torch tensors with packed weights are those of training."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
import torch

from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import ProblemError
from penstock.quant158 import native
from penstock.quant158.kernel import PackedMatrix, PackedStack
from penstock.quant158.product import PackedProduct, has_product
from penstock.quant158.stored import Group
from penstock.quant158.ternary import TernaryQuantizer

pytestmark = pytest.mark.skipif(not native.built(), reason="built without a compiler")

both_roundings = pytest.mark.parametrize("activations", [None, "int8"])


def made(
    shape: tuple[int, ...], group: Group, activations: Literal["int8"] | None
) -> tuple[PackedProduct, torch.Tensor, TernaryQuantizer]:
    """A product, the weight of training, and the quantizer."""
    quantizer = TernaryQuantizer(group=group, activations=activations)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    product = PackedProduct(quantizer.pack(weight), shape, quantizer.input_bits)
    return product, quantizer.site(shape, ParameterRole.MATRIX)(weight), quantizer


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@both_roundings
@pytest.mark.parametrize("group", ["tensor", "row", 64])
@pytest.mark.parametrize("leading", [(), (1,), (3, 5)])
def test_a_product_is_that_of_training_up_to_rounding(
    group: Group, leading: tuple[int, ...], activations: Literal["int8"] | None
) -> None:
    product, weight, quantizer = made((37, 129), group, activations)
    x = torch.randn(*leading, 129, generator=torch.Generator().manual_seed(1))
    expected = quantizer.input(x) @ weight.T
    found = product(x)
    assert (found.shape, found.dtype) == (expected.shape, torch.float32)
    assert error(found, expected) < (1e-6 if activations else 5e-5)


@both_roundings
@pytest.mark.parametrize("counts", [[2, 0, 5], [0, 0, 1], [0, 0, 0]])
def test_the_rows_of_each_matrix_of_a_stack_meet_that_matrix(
    counts: Sequence[int], activations: Literal["int8"] | None
) -> None:
    product, weight, quantizer = made((3, 21, 50), 64, activations)
    x = torch.randn(sum(counts), 50, generator=torch.Generator().manual_seed(1))
    parts = zip(quantizer.input(x).split(list(counts)), weight, strict=True)
    expected = torch.cat([rows @ matrix.T for rows, matrix in parts])
    found = product(x, torch.tensor(counts))
    assert found.shape == expected.shape
    assert not len(x) or error(found, expected) < (1e-6 if activations else 5e-5)


def test_a_stack_has_the_bits_of_its_matrices_with_any_number_of_threads() -> None:
    shape, rng = (4, 130, 77), np.random.default_rng(0)
    arrays = TernaryQuantizer(group="row").pack(torch.randn(shape))
    x, counts = rng.normal(size=(9, 77)).astype(np.float32), np.array([3, 0, 1, 5])
    stack, starts = PackedStack(arrays["codes"], arrays["scale"], shape), np.cumsum(counts) - counts
    for threads in (1, 3):
        found = stack.matmul(x, counts, planes=2, threads=threads)
        for number, (start, count) in enumerate(zip(starts, counts, strict=True)):
            matrix = PackedMatrix(arrays["codes"], arrays["scale"][number], shape[1:], first_trit=number * 130 * 77)
            rows = slice(start, start + count)
            assert np.array_equal(found[rows], matrix.matmul(x[rows], planes=2))


@pytest.mark.parametrize(
    ("rows", "counts"),
    [(5, [2, 2]), (4, [2, 2, 0]), (4, [-1, 5]), (4, [[2, 2]])],
    ids=["few", "many", "negative", "2-D"],
)
def test_counts_that_do_not_fit_are_refused(rows: int, counts: list[int]) -> None:
    arrays = TernaryQuantizer().pack(torch.randn(2, 5, 8))
    stack = PackedStack(arrays["codes"], arrays["scale"], (2, 5, 8))
    with pytest.raises(ValueError, match="for a stack"):
        stack.matmul(np.ones((rows, 8), np.float32), np.array(counts))


@pytest.mark.parametrize("shape", [(3, 5, 8), (2, 6, 8), (2, 5, 9), (0, 5, 8)])
def test_arrays_of_another_stack_are_refused(shape: tuple[int, int, int]) -> None:
    arrays = TernaryQuantizer(group="row").pack(torch.randn(2, 5, 8))
    with pytest.raises(ProblemError, match=r"do not fit|do not hold"):
        PackedStack(arrays["codes"], arrays["scale"], shape)


def test_memory_takes_two_bits_a_weight() -> None:
    product, _, _ = made((4, 64, 256), "row", None)
    assert product.nbytes == 4 * (64 * 256 // 4 + 2 * 64)


def test_a_copy_of_a_model_shares_the_packed_memory_and_a_pickle_is_refused() -> None:
    product, _, _ = made((16, 16), "tensor", None)
    x = torch.randn(16)
    expected, copied = product(x), copy.deepcopy(product)
    del product
    assert torch.equal(copied(x), expected)
    with pytest.raises(TypeError, match="store their codes"):
        pickle.dumps(copied)


def test_the_kernel_is_the_one_that_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "portable")
    assert made((16, 16), "tensor", None)[0].kernel.name == "portable"


def test_only_ternary_weights_with_inputs_that_the_kernel_rounds_have_a_product() -> None:
    assert has_product("ternary-base3-g64", (8, 8), 8)
    assert has_product("ternary-base3-row", (2, 8, 8), None)
    assert not has_product("int8-rows", (8, 8), None)
    assert not has_product("ternary-base3-row", (8, 8), 4)
