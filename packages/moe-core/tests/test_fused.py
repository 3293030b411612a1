"""Each fused node equals its plain formula, in value and gradient, for every layout that the model hands it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from penstock.moe_core.layers import mlp
from penstock.moe_core.layers.dispatch import combine, dispatch
from penstock.moe_core.layers.mlp import swiglu
from penstock.moe_core.layers.norm import rms_norm
from penstock.moe_core.layers.rope import rotated_heads


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


def plain_rms_norm(x, weight, epsilon):
    return weight * (x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt())


def plain_rotation(x_BSNh, cos_SR, sin_SR):
    pairs = cos_SR.shape[-1]
    first, second, rest = x_BSNh.split((pairs, pairs, x_BSNh.shape[-1] - 2 * pairs), dim=-1)
    cos, sin = cos_SR[:, None], sin_SR[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def plain_swiglu(gate_up, weight_N=None):
    gate, up = gate_up.chunk(2, dim=-1)
    hidden = gate / (1 + (-gate).exp()) * up
    return hidden if weight_N is None else hidden * weight_N[:, None]


def assert_same(function, oracle, inputs):
    torch.testing.assert_close(function(*inputs), oracle(*inputs))
    assert gradcheck(function, inputs)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (2, 3, 4, 8)])
def test_rms_norm(shape):
    assert_same(lambda x, w: rms_norm(x, w, 1e-5), lambda x, w: plain_rms_norm(x, w, 1e-5), (random(*shape), random(8)))


def test_rms_norm_of_a_row_of_zeros_has_a_gradient():
    x = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: rms_norm(x, torch.ones(8, dtype=torch.float64), 1e-2), (x,))


@pytest.mark.parametrize("pairs", [2, 4])
@pytest.mark.parametrize("normalised", [True, False])
def test_rotated_heads_that_are_a_slice_of_a_wider_tensor(pairs, normalised):
    cos_SR, sin_SR = torch.rand(2, 3, pairs, dtype=torch.float64)
    weight = random(8) if normalised else None

    def ours(heads_BSLh, weight):
        return rotated_heads(heads_BSLh[:, :, 1:3], weight, 1e-5, cos_SR, sin_SR)

    def oracle(heads_BSLh, weight):
        part = heads_BSLh[:, :, 1:3]
        return plain_rotation(part if weight is None else plain_rms_norm(part, weight, 1e-5), cos_SR, sin_SR)

    assert_same(ours, oracle, (random(2, 3, 4, 8), weight))


@pytest.mark.parametrize("weighted", [True, False])
def test_swiglu_across_block_borders(monkeypatch, weighted):
    monkeypatch.setattr(mlp, "BLOCK_ELEMENTS", 24)  # three rows
    assert_same(swiglu, plain_swiglu, (random(7, 8), random(7) if weighted else None))


def test_swiglu_of_a_batch():
    assert_same(swiglu, plain_swiglu, (random(2, 3, 8),))


def test_dispatch_and_combine_are_indexing_and_its_adjoint():
    order_N = torch.randperm(12)
    token_N, position_TK = order_N // 3, order_N.argsort().view(4, 3)
    x_TD, y_ND = random(4, 5), random(12, 5)
    assert_same(lambda x: dispatch(x, token_N, position_TK), lambda x: x[token_N], (x_TD,))
    assert_same(lambda y: combine(y, token_N, position_TK), lambda y: y[position_TK].sum(1), (y_ND,))


def test_dispatch_and_combine_of_tokens_that_differ_in_their_rows():
    token_N = torch.tensor([3, 0, 3, 1, 0])  # token 2 has none
    position_N, start_T = token_N.argsort(stable=True), torch.tensor([0, 2, 3, 3])
    x_TD, y_ND = random(4, 5), random(5, 5)
    sums = torch.zeros(4, 5, dtype=torch.float64)
    assert_same(lambda x: dispatch(x, token_N, position_N, start_T), lambda x: x[token_N], (x_TD,))
    assert_same(lambda y: combine(y, token_N, position_N, start_T), lambda y: sums.index_add(0, token_N, y), (y_ND,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_of_narrow_types_are_wide(dtype):
    x, weight = torch.randn(64, 256).to(dtype), torch.rand(256)
    theirs = F.rms_norm(x.float(), (256,), None, 1e-5).to(dtype) * weight.to(dtype)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), theirs)
    assert rms_norm(x, weight, 1e-5).dtype == dtype
