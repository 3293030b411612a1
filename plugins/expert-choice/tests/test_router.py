"""Every expert takes its capacity of its best tokens, and a routing says so in slots."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_expert_choice.router import ExpertChoice

from penstock.hooks import ProblemError
from penstock.hooks.contracts import Router, Routing
from penstock.routers.losses import SwitchLoss

WIDTH = 6


def random_router(experts: int, seed: int = 0, **options) -> ExpertChoice:
    router = ExpertChoice(WIDTH, experts, **options)
    with torch.no_grad():
        router.weight.copy_(torch.randn(experts, WIDTH, generator=torch.Generator().manual_seed(seed)))
    return router


def random_hidden(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed + 1000))


def pairs(routing: Routing) -> set[tuple[int, int]]:
    """(token, expert) of every kept slot."""
    assert routing.kept_TK is not None
    kept = routing.kept_TK.nonzero().tolist()
    return {(token, int(routing.expert_TK[token, slot])) for token, slot in kept}


def dense_weights(routing: Routing) -> torch.Tensor:
    """[T, E], which does not depend on the order of slots."""
    return torch.zeros_like(routing.score_TE).scatter_add(-1, routing.expert_TK, routing.weight_TK)


def dumb_choice(score_TE: torch.Tensor, capacity: int) -> set[tuple[int, int]]:
    """One expert at a time; Python's sort keeps the order of equal scores."""
    chosen = set()
    for expert in range(score_TE.shape[1]):
        column = score_TE[:, expert].tolist()
        best = sorted(range(len(column)), key=lambda token: -column[token])[:capacity]
        chosen |= {(token, expert) for token in best}
    return chosen


sizes = {
    "tokens": st.integers(0, 20),
    "experts": st.integers(1, 6),
    "factor": st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 6.0]),
    "seed": st.integers(0, 99),
}


@given(**sizes, distinct=st.integers(1, 20))
@settings(deadline=None)
def test_every_expert_takes_exactly_its_capacity_of_its_best_tokens_and_of_equal_ones_the_earlier(
    tokens, experts, factor, seed, distinct
):
    factor = min(factor, float(experts))
    hidden_TD = random_hidden(tokens, seed)[torch.arange(tokens) % distinct]  # repeated tokens score the same
    router = random_router(experts, seed, capacity_factor=factor)
    routing = router(hidden_TD)
    capacity = math.ceil(tokens * factor / experts)
    assert pairs(routing) == dumb_choice(routing.score_TE, capacity)
    taken = [expert for _, expert in pairs(routing)]
    assert [taken.count(expert) for expert in range(experts)] == [capacity] * experts


@given(**sizes)
@settings(deadline=None)
def test_slots_are_as_many_as_the_most_experts_of_a_token_and_kept_ones_come_first(tokens, experts, factor, seed):
    routing = random_router(experts, seed, capacity_factor=min(factor, float(experts)))(random_hidden(tokens, seed))
    per_token = [sum(token == each for each, _ in pairs(routing)) for token in range(tokens)]
    assert routing.expert_TK.shape == (tokens, max(per_token, default=0))
    assert routing.expert_TK.dtype == torch.int64
    assert routing.kept_TK is not None
    assert routing.dropped_TK is None
    assert routing.kept_TK.dtype == torch.bool
    assert routing.kept_TK.tolist() == [[slot < count for slot in range(max(per_token))] for count in per_token]
    assert ((routing.expert_TK >= 0) & (routing.expert_TK < experts)).all()
    assert len(pairs(routing)) == routing.kept_TK.sum()  # no token has an expert twice


@pytest.mark.parametrize("normalize", [False, True])
def test_a_weight_is_the_score_or_its_share_of_the_scores_of_the_experts_that_took_the_token(normalize):
    routing = random_router(5, capacity_factor=1.0, normalize=normalize)(random_hidden(20))
    expected = torch.zeros(20, 5)
    for token, expert in pairs(routing):
        expected[token, expert] = routing.score_TE[token, expert]
    torch.testing.assert_close(routing.score_TE, routing.logits_TE.softmax(-1))
    assert (expected.sum(-1) == 0).any()  # some tokens have no expert
    if normalize:
        expected = (expected / expected.sum(-1, keepdim=True)).nan_to_num()
    torch.testing.assert_close(dense_weights(routing), expected)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_gradient_of_weights_is_that_of_a_loop_over_kept_slots_and_nothing_comes_from_others(normalize):
    router = random_router(5, capacity_factor=1.0, normalize=normalize)
    hidden_TD = random_hidden(20).requires_grad_()
    routing = router(hidden_TD)
    assert routing.kept_TK is not None
    assert not routing.kept_TK.all()
    direction_TE = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    noise_TK = torch.where(routing.kept_TK, direction_TE.gather(1, routing.expert_TK), 1e6)
    ours = torch.autograd.grad((routing.weight_TK * noise_TK).sum(), [router.weight, hidden_TD])

    score_TE = (hidden_TD @ router.weight.T).softmax(-1)
    loss = torch.zeros(())
    for token, expert in pairs(routing):
        total = sum(score_TE[token, other] for each, other in pairs(routing) if each == token) if normalize else 1.0
        loss = loss + direction_TE[token, expert] * score_TE[token, expert] / total
    oracle = torch.autograd.grad(loss, [router.weight, hidden_TD])
    for mine, expected in zip(ours, oracle, strict=True):
        assert expected.any()
        torch.testing.assert_close(mine, expected)


def test_a_token_that_no_expert_took_has_no_gradient_even_where_weights_are_normalized():
    router = random_router(5, capacity_factor=0.5, normalize=True)
    hidden_TD = random_hidden(20).requires_grad_()
    routing = router(hidden_TD)
    routing.weight_TK.square().sum().backward()
    untaken = sorted(set(range(20)) - {token for token, _ in pairs(routing)})
    assert untaken
    assert hidden_TD.grad is not None
    assert hidden_TD.grad.isfinite().all()
    assert not hidden_TD.grad[untaken].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_scores_are_fp32_whatever_the_hidden_states_are(dtype, autocast):
    router = random_router(4)
    hidden_TD = random_hidden(12).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        routing = router(hidden_TD)
    exact = router(hidden_TD.detach().float())
    for name in ("expert_TK", "kept_TK", "weight_TK", "logits_TE", "score_TE"):
        torch.testing.assert_close(getattr(routing, name), getattr(exact, name), rtol=0, atol=0)
    assert routing.weight_TK.dtype == routing.logits_TE.dtype == routing.score_TE.dtype == torch.float32
    routing.weight_TK.sum().backward()
    assert hidden_TD.grad is not None
    assert hidden_TD.grad.dtype == dtype


def test_a_permutation_of_the_tokens_permutes_the_result():
    router = random_router(5)
    hidden_TD, order_T = random_hidden(24), torch.randperm(24, generator=torch.Generator().manual_seed(0))
    routing, permuted = router(hidden_TD), router(hidden_TD[order_T])
    for name in ("expert_TK", "kept_TK"):
        torch.testing.assert_close(getattr(permuted, name), getattr(routing, name)[order_T])
    torch.testing.assert_close(permuted.weight_TK, routing.weight_TK[order_T])


def test_a_load_balancing_loss_has_nothing_to_do():
    router = random_router(5)
    loss = SwitchLoss()(router(random_hidden(20)))
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert router.weight.grad is not None
    assert router.weight.grad.abs().max() < 1e-6


def test_a_later_token_changes_the_experts_of_an_earlier_one():
    router = ExpertChoice(2, 2, capacity_factor=1.0)
    with torch.no_grad():
        router.weight.copy_(torch.eye(2))
    text_TD = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert pairs(router(text_TD)) == {(0, 0), (1, 1)}
    text_TD[1] = torch.tensor([2.0, 0.0])  # expert 0 prefers it, and the first token is left to expert 1
    assert pairs(router(text_TD)) == {(1, 0), (0, 1)}


def test_no_token_gives_an_empty_routing_that_can_be_differentiated():
    router = random_router(4)
    routing = router(torch.zeros(0, WIDTH))
    assert routing.expert_TK.shape == routing.weight_TK.shape == routing.kept_TK.shape == (0, 0)
    assert routing.logits_TE.shape == routing.score_TE.shape == (0, 4)
    routing.weight_TK.sum().backward()
    assert router.weight.grad is not None
    assert not router.weight.grad.any()


@pytest.mark.parametrize("factor", [0.1, 1.0, 4.0])
def test_a_single_token_is_taken_by_every_expert_with_weights_that_sum_to_1(factor):
    routing = random_router(4, capacity_factor=factor)(random_hidden(1))
    assert routing.expert_TK.tolist() == [[0, 1, 2, 3]]
    assert routing.kept_TK.all()
    assert routing.weight_TK.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("tokens", [0, 1, 17])
def test_routing_draws_no_random_number_and_repeats_itself(tokens):
    router, hidden_TD = random_router(5), random_hidden(tokens)
    before = torch.get_rng_state()
    first, second = router(hidden_TD), router(hidden_TD)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.expert_TK, second.expert_TK)
    assert torch.equal(first.weight_TK, second.weight_TK)


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_extreme_and_equal_hidden_states_are_routed(value):
    routing = random_router(4)(torch.full((8, WIDTH), value))
    assert pairs(routing) == {(token, expert) for token in range(4) for expert in range(4)}  # the earlier half
    assert routing.weight_TK.isfinite().all()


def test_state_dict_deepcopy_and_meta_device_round_trip():
    router, hidden_TD = random_router(4, seed=3), random_hidden(9)
    assert list(router.state_dict()) == ["weight"]
    loaded = random_router(4, seed=4)
    loaded.load_state_dict(router.state_dict())
    with torch.device("meta"):
        shapeless = ExpertChoice(WIDTH, 4)
    empty = shapeless.to_empty(device="cpu")
    empty.reset_parameters()
    empty.load_state_dict(router.state_dict())
    for copied in (loaded, copy.deepcopy(router), empty):
        assert torch.equal(copied(hidden_TD).weight_TK, router(hidden_TD).weight_TK)
        assert torch.equal(copied(hidden_TD).expert_TK, router(hidden_TD).expert_TK)


@pytest.mark.parametrize(("factor", "k"), [(0.5, 1), (1.0, 1), (1.5, 2), (2.0, 2), (4.0, 4)])
def test_it_is_a_router_of_k_experts_on_average_rounded_up_without_a_bias(factor, k):
    router = ExpertChoice(WIDTH, 4, capacity_factor=factor)
    assert isinstance(router, Router)
    assert (router.experts, router.k, router.e_score_correction_bias) == (4, k, None)
    assert len(pairs(router(random_hidden(32)))) == 32 * factor


@pytest.mark.parametrize("factor", [0.0, -1.0, 4.5, math.inf, math.nan])
def test_a_capacity_that_cannot_be_is_a_problem(factor):
    with pytest.raises(ProblemError, match=r"capacity_factor is .* use more than 0 and at most 4"):
        ExpertChoice(WIDTH, 4, capacity_factor=factor)
