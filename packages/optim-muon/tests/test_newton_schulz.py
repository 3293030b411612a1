from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.optim_muon import newton_schulz
from penstock.optim_muon.newton_schulz import orthogonalize


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dumb_orthogonal(matrix: np.ndarray, steps: int) -> np.ndarray:
    """The polynomial on the singular values, in fp64: no iteration on matrices, no transposition."""
    left, singular, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    singular = singular / max(np.sqrt((singular**2).sum()), 1e-7)
    for _ in range(steps):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return left @ np.diag(singular) @ right


@given(rows=st.integers(1, 24), columns=st.integers(1, 24), steps=st.integers(1, 5), seed=st.integers(0, 99))
@settings(deadline=None)
def test_fp32_equals_the_polynomial_of_the_singular_values(rows, columns, steps, seed):
    matrix = random(rows, columns, seed=seed)
    result = orthogonalize(matrix, steps=steps, dtype=torch.float32)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), dumb_orthogonal(matrix.numpy(), steps), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 40), (34, 60), (60, 34), (64, 48)])
@pytest.mark.parametrize("size", [1.0, 1e3, 1e-9])
def test_bf16_equals_torch(shape, size):
    parameter = torch.nn.Parameter(torch.zeros(shape))
    parameter.grad = random(*shape) * size
    torch.optim.Muon(
        [parameter], lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, adjust_lr_fn="original"
    ).step()
    theirs = -parameter.detach() / max(1.0, shape[0] / shape[1]) ** 0.5
    torch.testing.assert_close(orthogonalize(random(*shape) * size).float(), theirs, rtol=1.6e-2, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 12, 20), (5, 20, 12), (2, 3, 8, 8)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_stack_equals_a_loop_over_its_matrices(shape, dtype, tolerance):
    stack = random(*shape) * torch.tensor([10.0**i for i in range(shape[0])]).view(-1, *[1] * (len(shape) - 1))
    result = orthogonalize(stack, dtype=dtype)
    looped = [orthogonalize(matrix, dtype=dtype) for matrix in stack.reshape(-1, *shape[-2:])]
    torch.testing.assert_close(result, torch.stack(looped).view(shape), rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(7, 12, 20), (7, 20, 12), (7, 12, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_of_a_stack_change_nothing(monkeypatch, shape, dtype):
    whole = orthogonalize(random(*shape), dtype=dtype)
    monkeypatch.setattr(newton_schulz, "CPU_PIECE", 3 * shape[1] * shape[2])
    torch.testing.assert_close(orthogonalize(random(*shape), dtype=dtype), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [8, 16, 32])
def test_small_matrices_are_iterated_in_fp32_from_and_to_bf16(rows):
    matrix = random(rows, 24).bfloat16()
    assert torch.equal(orthogonalize(matrix), orthogonalize(matrix, dtype=torch.float32).bfloat16())


@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("shape", [(32, 16), (16, 8), (8, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_matrix_has_the_same_bits_in_a_stack_of_any_length(dtype, shape, together):
    stack = random(1500, *shape)
    apart = torch.cat([orthogonalize(matrices, dtype=dtype) for matrices in stack.split(together)])
    assert torch.equal(apart, orthogonalize(stack, dtype=dtype))


@pytest.mark.parametrize("rank", [1, 4, 64])
@pytest.mark.parametrize("shape", [(128, 64), (64, 64), (64, 128)])
@pytest.mark.parametrize("smallest", [1, 1e-6], ids=["even", "ill-conditioned"])
def test_fp32_holds_for_matrices_of_low_rank_and_wide_spectrum(rank, shape, smallest):
    singular = torch.logspace(0, float(np.log10(smallest)), rank)
    matrix = random(shape[0], rank) * singular @ random(rank, shape[1], seed=1)
    result = orthogonalize(matrix, dtype=torch.float32)
    np.testing.assert_allclose(result.numpy(), dumb_orthogonal(matrix.numpy(), 5), rtol=0, atol=3e-5)


def test_singular_values_come_close_to_one():
    singular = torch.linalg.svdvals(orthogonalize(random(4, 32, 48), dtype=torch.float32))
    assert singular.min() > 0.5
    assert singular.max() < 1.25


def test_a_zero_matrix_stays_zero_beside_others():
    stack = random(3, 8, 6)
    stack[1] = 0
    result = orthogonalize(stack, dtype=torch.float32)
    assert not result[1].any()
    assert result.isfinite().all()


@pytest.mark.parametrize("shape", [(8, 6), (6, 8)])
def test_the_argument_is_left_alone(shape):
    matrix = random(*shape)
    before = matrix.clone()
    orthogonalize(matrix, dtype=torch.float32)
    assert torch.equal(matrix, before)
