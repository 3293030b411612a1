"""The norm of a gradient has the same bits for every cut of its rows.

Shape suffixes: R rows, N numbers of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from penstock.train.engines.norm import norm_of_rows, row_norms, scale_down


def gradient(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("length", [1, 3, 8, 9, 100, 4097, 70_001])
def test_a_row_has_the_same_bits_beside_any_others(length: int):
    whole_RN = gradient(7, length)
    norm_R = row_norms(whole_RN)
    for number in (1, 2):
        with threads(number):
            for start in range(7):
                for end in range(start + 1, 8):
                    moved = torch.empty((end - start) * length + 1)[1:]  # at another alignment, as in a flat buffer
                    part_RN = moved.view(-1, length).copy_(whole_RN[start:end])
                    assert torch.equal(row_norms(part_RN), norm_R[start:end])


def test_vectors_are_cut_between_any_two_numbers():
    vector_N = gradient(13)
    assert torch.equal(torch.cat([row_norms(part) for part in vector_N.split([5, 1, 7])]), row_norms(vector_N))


@pytest.mark.parametrize("rows", [1, 1024, 1025, 100_003])
def test_the_sum_of_rows_does_not_depend_on_threads(rows: int):
    norm_R = gradient(rows).abs()
    with threads(1):
        one = norm_of_rows(norm_R)
    with threads(2):
        assert norm_of_rows(norm_R) == one
    assert one == pytest.approx(norm_R.double().norm().item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_it_is_the_norm_of_all_numbers(dtype: torch.dtype):
    gradients = [gradient(*shape, seed=seed).to(dtype) for seed, shape in enumerate([(40, 64), (4, 8, 16), (50,), ()])]
    expected = torch.cat([each.flatten().double() for each in gradients]).norm().item()
    assert norm_of_rows(torch.cat([row_norms(each).flatten() for each in gradients])) == pytest.approx(expected)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_number_that_is_not_finite_shows(bad: float):
    broken = gradient(9, 17)
    broken[4, 2] = bad
    assert not torch.tensor(norm_of_rows(row_norms(broken))).isfinite()


@pytest.mark.parametrize(("limit", "expected"), [(None, 5.0), (6.0, 5.0), (5.0, 5.0), (0.5, 0.5)])
def test_gradients_are_scaled_down_and_never_up(limit: float | None, expected: float):
    gradients = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    scale_down(gradients, 5.0, limit)
    assert torch.cat([each.flatten() for each in gradients]).norm().item() == pytest.approx(expected)
