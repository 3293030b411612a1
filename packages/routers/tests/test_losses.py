from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from penstock.hooks.contracts import BalanceLoss, Routing
from penstock.routers.load import count_assignments
from penstock.routers.losses import GlobalLoss, SequenceLoss, SwitchLoss, ZLoss, switch_loss, z_loss
from penstock.routers.topk import SigmoidTopK, SoftmaxTopK

LOSSES: list[BalanceLoss] = [SwitchLoss(), ZLoss()]
BOTH = pytest.mark.parametrize("loss", LOSSES, ids=["switch", "z"])


def random_routing(tokens: int, experts: int, k: int, seed: int) -> Routing:
    """fp64 sigmoid scores and a choice that is not the top-k of the scores, as under a selection bias."""
    generator = torch.Generator().manual_seed(seed)
    logits_TE = torch.randn(tokens, experts, dtype=torch.float64, generator=generator, requires_grad=True)
    expert_TK = torch.rand(tokens, experts, generator=generator).argsort()[:, :k]
    return Routing(expert_TK, torch.zeros(tokens, k), logits_TE, logits_TE.sigmoid())


def part_of(routing: Routing, index: torch.Tensor) -> Routing:
    return Routing(*(getattr(routing, name)[index] for name in ("expert_TK", "weight_TK", "logits_TE", "score_TE")))


def dumb_switch(routing: Routing, counted: np.ndarray, chosen_TK: np.ndarray | None = None) -> float:
    scores = routing.score_TE.detach().numpy()[counted]
    chosen_TK = np.full(routing.expert_TK.shape, True) if chosen_TK is None else chosen_TK
    chosen = routing.expert_TK.numpy()[counted][chosen_TK[counted]].tolist()
    experts = scores.shape[1]
    share = [chosen.count(expert) / max(len(chosen), 1) for expert in range(experts)]
    probability = [np.mean([row[expert] / row.sum() for row in scores]) for expert in range(experts)]
    return experts * sum(f * p for f, p in zip(share, probability, strict=True))


def dumb_z(routing: Routing, counted: np.ndarray) -> float:
    return float(np.mean([np.log(np.exp(row).sum()) ** 2 for row in routing.logits_TE.detach().numpy()[counted]]))


@given(tokens=st.integers(1, 9), experts=st.integers(2, 6), k=st.integers(1, 2), seed=st.integers(0, 99))
@settings(deadline=None)
def test_losses_equal_their_definitions(tokens, experts, k, seed):
    routing = random_routing(tokens, experts, k, seed)
    mask_T = torch.rand(tokens, generator=torch.Generator().manual_seed(seed)) < 0.7
    mask_T[0] = True
    everything = np.full(tokens, True)
    for loss, oracle in ((SwitchLoss(), dumb_switch), (ZLoss(), dumb_z)):
        assert loss(routing).item() == pytest.approx(oracle(routing, everything), abs=1e-12)
        assert loss(routing, mask_T).item() == pytest.approx(oracle(routing, mask_T.numpy()), abs=1e-12)


@BOTH
def test_padding_has_neither_value_nor_gradient(loss):
    routing = random_routing(8, 4, 2, 0)
    mask_T = torch.tensor([True, False] * 4)
    with_padding = loss(routing, mask_T)
    (gradient,) = torch.autograd.grad(with_padding, routing.logits_TE, retain_graph=True)
    assert not gradient[~mask_T].any()
    assert gradient[mask_T].any()
    torch.testing.assert_close(with_padding, loss(part_of(routing, mask_T)), rtol=0, atol=1e-12)


@BOTH
def test_nothing_counted_is_zero_and_differentiable(loss):
    routing = random_routing(4, 4, 2, 0)
    value = loss(routing, torch.zeros(4, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert not routing.logits_TE.grad.any()
    assert loss(random_routing(0, 4, 2, 0)).item() == 0


@pytest.mark.parametrize("kind", [SigmoidTopK, SoftmaxTopK])
def test_even_load_is_one_and_collapse_is_more(kind):
    even = kind(4, 4, k=1)
    with torch.no_grad():
        even.weight.copy_(torch.eye(4) * 3)
    assert SwitchLoss()(even(torch.eye(4))).item() == pytest.approx(1.0, abs=1e-6)
    with torch.no_grad():
        even.weight[0] += 6
    assert SwitchLoss()(even(torch.eye(4))).item() > 1.1


def test_switch_loss_counts_what_the_bias_made_happen():
    router = SigmoidTopK(4, 4, k=1)
    hidden_TD = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    without_bias = SwitchLoss()(router(hidden_TD))
    router.e_score_correction_bias[3] = 10.0
    routing = router(hidden_TD)
    assert (routing.expert_TK == 3).all()
    probability_E = (routing.score_TE / routing.score_TE.sum(-1, keepdim=True)).mean(0)
    torch.testing.assert_close(SwitchLoss()(routing), 4 * probability_E[3])
    assert SwitchLoss()(routing).item() != pytest.approx(without_bias.item(), abs=1e-6)


@given(tokens=st.integers(1, 9), k=st.integers(1, 4), masked=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None)
def test_switch_loss_counts_what_was_chosen_before_drops_and_no_empty_slot(tokens, k, masked, seed):
    state_TK = torch.randint(0, 3, (tokens, k), generator=torch.Generator().manual_seed(seed))
    kept_TK, dropped_TK = state_TK == 1, state_TK == 2
    capped = replace(random_routing(tokens, 5, k, seed), kept_TK=kept_TK, dropped_TK=dropped_TK)
    mask_T = torch.arange(tokens) % 3 != 1 if masked else None
    counted = np.full(tokens, True) if mask_T is None else mask_T.numpy()
    chosen = dumb_switch(capped, counted, (kept_TK | dropped_TK).numpy())
    assert SwitchLoss()(capped, mask_T).item() == pytest.approx(chosen, abs=1e-12)
    only_empty = replace(capped, dropped_TK=None)
    kept = dumb_switch(capped, counted, kept_TK.numpy())
    assert SwitchLoss()(only_empty, mask_T).item() == pytest.approx(kept, abs=1e-12)


def test_gradient_of_the_switch_loss_is_that_of_its_definition_where_slots_are_dropped():
    routing = random_routing(6, 4, 2, 0)
    kept_TK = torch.tensor([[True, False]] * 6)
    SwitchLoss()(replace(routing, kept_TK=kept_TK, dropped_TK=~kept_TK)).backward()
    before_drops = random_routing(6, 4, 2, 0)
    SwitchLoss()(before_drops).backward()
    torch.testing.assert_close(routing.logits_TE.grad, before_drops.logits_TE.grad, rtol=0, atol=0)
    empty = random_routing(6, 4, 2, 0)
    SwitchLoss()(replace(empty, kept_TK=kept_TK)).backward()
    first = random_routing(6, 4, 2, 0)
    SwitchLoss()(replace(first, expert_TK=first.expert_TK[:, :1])).backward()
    torch.testing.assert_close(empty.logits_TE.grad, first.logits_TE.grad, rtol=0, atol=0)


def test_layers_are_not_pooled_so_that_one_cannot_hide_another():
    """transformers' `load_balancing_loss_func` sums counts and probabilities over layers before it multiplies: two
    layers that each send everything to their own half of the experts look even."""
    preferred_TE = 8.0 * torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 6)
    layers = [preferred_TE, preferred_TE.flip(-1)]
    theirs: Any = load_balancing_loss_func
    pooled = theirs(tuple(layers), num_experts=4, top_k=2)
    even = theirs((torch.zeros(4, 4), torch.zeros(4, 4)), num_experts=4, top_k=2)
    assert pooled.item() == pytest.approx(even.item(), rel=0.01)
    routings = [
        Routing(logits_TE.topk(2).indices, torch.ones(6, 2), logits_TE, logits_TE.softmax(-1)) for logits_TE in layers
    ]
    assert all(SwitchLoss()(routing).item() > 1.99 for routing in routings)


@given(cuts=st.lists(st.integers(0, 12), max_size=4), padding=st.integers(0, 3), seed=st.integers(0, 99))
@settings(deadline=None)
def test_gradient_is_the_same_for_any_split_and_padding(cuts, padding, seed):
    whole = random_routing(12, 5, 2, seed)
    (SwitchLoss()(whole) + ZLoss()(whole)).backward()
    expected = whole.logits_TE.grad

    parted = random_routing(12, 5, 2, seed)
    counts_E = count_assignments([parted.expert_TK], experts=5)[0]
    total = torch.zeros((), dtype=torch.float64)
    edges = [0, *sorted(cuts), 12]
    for start, end in pairwise(edges):
        index = torch.cat([torch.arange(start, end), torch.zeros(padding, dtype=torch.int64)])
        mask_T = torch.arange(len(index)) < end - start
        part = part_of(parted, index)
        loss = switch_loss(score_TE=part.score_TE, counts_E=counts_E, tokens=12, mask_T=mask_T)
        total = total + loss + z_loss(logits_TE=part.logits_TE, tokens=12, mask_T=mask_T)
    total.backward()
    torch.testing.assert_close(parted.logits_TE.grad, expected, rtol=0, atol=1e-12)


@given(
    sequences=st.integers(1, 4),
    length=st.integers(1, 5),
    k=st.integers(1, 3),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_sequence_loss_is_the_mean_of_the_switch_losses_of_sequences_that_have_tokens(
    sequences, length, k, masked, seed
):
    routing = random_routing(sequences * length, 5, k, seed)
    slots_TK = torch.rand(sequences * length, k, generator=torch.Generator().manual_seed(seed)) < 0.8
    routing = replace(routing, kept_TK=slots_TK)
    mask_T = torch.rand(sequences * length, generator=torch.Generator().manual_seed(seed)) < 0.5 if masked else None
    alone = [
        SwitchLoss()(replace(part_of(routing, rows), kept_TK=slots_TK[rows]), None if mask_T is None else mask_T[rows])
        for rows in torch.arange(sequences * length).split(length)
        if mask_T is None or mask_T[rows].any()
    ]
    expected = torch.stack(alone).mean() if alone else torch.zeros((), dtype=torch.float64)
    loss = SequenceLoss()(routing, mask_T, sequences=sequences)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "loss", [SwitchLoss(), SequenceLoss(), GlobalLoss(), ZLoss()], ids=lambda each: type(each).__name__
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_of_masked_tokens_may_be_anything_and_get_no_gradient(loss, bad):
    torch.manual_seed(0)
    mask = torch.tensor([True, False, True, True, False, True])
    logits, expert = torch.randn(6, 4), torch.rand(6, 4).argsort()[:, :2]
    results = []
    for filling in (0.5, bad):
        values = [each.masked_fill(~mask[:, None], filling).requires_grad_() for each in (logits, logits.softmax(-1))]
        value = loss(Routing(expert, torch.full((6, 2), 0.5), *values), mask)
        gradient = torch.autograd.grad(value, values[0] if isinstance(loss, ZLoss) else values[1])[0]
        assert not gradient[~mask].any()
        results.append((value, gradient))
    assert torch.equal(results[1][0], results[0][0])
    assert torch.equal(results[1][1], results[0][1])
