"""Every way to multiply experts equals a dumb loop over tokens, forward and backward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from penstock.hooks.contracts import Routing
from penstock.moe_core.layers.expert_backends import BACKENDS, choose
from penstock.moe_core.layers.experts import Experts


def dumb_experts(layer: Experts, x_TD: torch.Tensor, routing: Routing) -> torch.Tensor:
    """One token and one expert at a time."""
    rows = []
    kept_TK = torch.ones_like(routing.expert_TK) if routing.kept_TK is None else routing.kept_TK
    for x_D, expert_K, weight_K, kept_K in zip(x_TD, routing.expert_TK, routing.weight_TK, kept_TK, strict=True):
        row_D = torch.zeros_like(x_D)
        for expert, weight, kept in zip(expert_K.tolist(), weight_K, kept_K.tolist(), strict=True):
            if not kept:
                continue
            gate, up = (layer.gate_up_proj[expert] @ x_D).chunk(2)
            row_D = row_D + weight * (layer.down_proj[expert] @ (F.silu(gate) * up))
        rows.append(row_D)
    return torch.stack(rows)


def random_case(dtype: torch.dtype, tokens: int = 11, k: int = 3, experts: int = 7, hidden: int = 16, width: int = 8):
    torch.manual_seed(0)
    layer = Experts(experts, hidden, width).to(dtype)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    expert_TK = torch.rand(tokens, experts - 1).topk(k).indices  # the last expert gets nothing
    weight_TK = torch.rand(tokens, k, dtype=dtype, requires_grad=True)
    x_TD = torch.randn(tokens, hidden, dtype=dtype, requires_grad=True)
    return layer, x_TD, Routing(expert_TK, weight_TK, torch.empty(0), torch.empty(0))


def kept_slots(which: str, tokens: int, k: int) -> torch.Tensor | None:
    kept_TK = torch.rand(tokens, k, generator=torch.Generator().manual_seed(1)) < 0.5
    kept_TK[0], kept_TK[1] = False, True
    return {"no kept_TK": None, "all": torch.ones_like(kept_TK), "some": kept_TK}[which]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kept", ["no kept_TK", "all", "some"])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_forward_and_backward_of_every_backend_equal_the_dumb_loop(backend, kept, k):
    layer, x_TD, routing = random_case(torch.float32, k=k)
    routing = replace(routing, kept_TK=kept_slots(kept, *routing.expert_TK.shape))
    layer.backend = BACKENDS[backend]
    leaves = [x_TD, routing.weight_TK, *layer.parameters()]
    ours = layer(x_TD, routing)
    dumb = dumb_experts(layer, x_TD, routing)
    torch.testing.assert_close(ours, dumb, rtol=1e-5, atol=1e-6)
    direction = torch.randn_like(ours)
    for mine, oracle in zip(
        torch.autograd.grad((ours * direction).sum(), leaves),
        torch.autograd.grad((dumb * direction).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, oracle, rtol=1e-4, atol=1e-5)


def test_a_slot_that_is_not_kept_is_not_computed_and_has_no_gradient():
    layer, x_TD, routing = random_case(torch.float32)
    kept_TK = kept_slots("some", *routing.expert_TK.shape)
    assert kept_TK is not None
    expert_TK = torch.where(kept_TK, routing.expert_TK, 6)  # of a slot that is not kept any expert may be named
    with torch.no_grad():
        layer.gate_up_proj[6], layer.down_proj[6] = torch.nan, torch.nan
    out_TD = layer(x_TD, replace(routing, expert_TK=expert_TK, kept_TK=kept_TK))
    out_TD.square().sum().backward()
    assert out_TD.isfinite().all()
    assert not out_TD[0].any()
    gradients = [each.grad for each in (layer.gate_up_proj, layer.down_proj, routing.weight_TK, x_TD)]
    gate_up, down, weight_TK, token_TD = (gradient for gradient in gradients if gradient is not None)
    assert not gate_up[6].any()
    assert not down[6].any()
    assert not weight_TK[~kept_TK].any()
    assert weight_TK[kept_TK].all()
    assert not token_TD[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("backend", [*BACKENDS, None])
def test_no_kept_slot_at_all_gives_zeros_and_zero_gradients(backend, dtype):
    layer, x_TD, routing = random_case(dtype)
    layer.backend = BACKENDS[backend] if backend else None
    out_TD = layer(x_TD, replace(routing, kept_TK=torch.zeros_like(routing.expert_TK, dtype=torch.bool)))
    assert out_TD.shape == x_TD.shape
    assert out_TD.dtype == dtype
    assert not out_TD.any()
    out_TD.sum().backward()
    for leaf in (x_TD, routing.weight_TK, *layer.parameters()):
        assert leaf.grad is not None
        assert not leaf.grad.any()


@pytest.mark.parametrize("kept", ["no kept_TK", "some"])
@pytest.mark.parametrize("backend", ["batched", "loop"])
def test_fp64_passes_gradcheck(backend, kept):
    layer, x_TD, routing = random_case(torch.float64, tokens=4, k=2, experts=3, hidden=4, width=3)
    routing = replace(routing, kept_TK=kept_slots(kept, 4, 2))
    layer.backend = BACKENDS[backend]

    def run(x_TD, weight_TK, gate_up, down):
        state = {"gate_up_proj": gate_up, "down_proj": down}
        return torch.func.functional_call(layer, state, (x_TD, replace(routing, weight_TK=weight_TK)))

    assert torch.autograd.gradcheck(run, (x_TD, routing.weight_TK, layer.gate_up_proj, layer.down_proj))


@pytest.mark.parametrize(
    ("dtype", "hidden", "counts", "name"),
    [
        (torch.float32, 16, (5, 5, 5), "grouped"),
        (torch.float32, 16, (15, 0, 0), "grouped"),
        (torch.float32, 18, (5, 5, 5), "batched"),
        (torch.float32, 18, (15, 0, 0), "loop"),
        (torch.bfloat16, 16, (5, 5, 5), "grouped"),
        (torch.bfloat16, 12, (5, 5, 5), "batched"),
        (torch.float16, 16, (5, 5, 5), "grouped"),
        (torch.float64, 16, (5, 5, 5), "batched"),
        (torch.float64, 16, (13, 1, 1), "loop"),
    ],
)
def test_the_backend_is_chosen_by_dtype_alignment_and_padding(dtype, hidden, counts, name):
    x_NI = torch.randn(sum(counts), hidden).to(dtype)
    weight_EOI = torch.randn(len(counts), 8, hidden).to(dtype)
    chosen = choose(x_NI, weight_EOI, torch.tensor(counts))
    assert chosen.name == name
    y_NO = chosen.multiply(x_NI, weight_EOI, torch.tensor(counts))
    expected = [x @ w.T for x, w in zip(x_NI.float().split(counts), weight_EOI.float(), strict=True)]
    torch.testing.assert_close(y_NO.float(), torch.cat(expected), rtol=0.02, atol=0.1)


def test_an_expanded_gradient_passes_through():
    layer, x_TD, routing = random_case(torch.float32)
    layer(x_TD, routing).sum().backward()  # stride 0: `grouped_mm` itself refuses it
    assert x_TD.grad is not None


def test_bf16_sums_of_experts_are_accumulated_wider():
    layer, x_TD, routing = random_case(torch.float32, tokens=64, k=6)
    exact = layer(x_TD, routing)
    narrow = layer(x_TD.bfloat16(), routing)
    assert narrow.dtype == torch.bfloat16
    assert (narrow - exact).norm() / exact.norm() < 0.01


def test_no_tokens_give_no_output():
    layer, x_TD, routing = random_case(torch.float32)
    empty = Routing(routing.expert_TK[:0], routing.weight_TK[:0], torch.empty(0), torch.empty(0))
    assert layer(x_TD[:0], empty).shape == (0, 16)
