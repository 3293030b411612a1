"""Other assignments keep what a routing promises, and the balanced one is the best of all that are even."""

from __future__ import annotations

import itertools

import pytest
import torch

from penstock.hooks.contracts import Routing
from penstock.profile.reassignment import STRATEGIES, Request, balanced, reassigned
from penstock.routers.load import count_assignments
from penstock.routers.topk import SoftmaxTopK


def routing(tokens: int = 60, experts: int = 6, k: int = 2, scale: float = 1.5) -> Routing:
    torch.manual_seed(0)
    router = SoftmaxTopK(8, experts, k=k, scale=scale)
    router.weight.data.normal_()
    return router(torch.randn(tokens, 8) + 1)


def changed(found: Routing, strategy: str, fraction: float, **more: float) -> Routing:
    return reassigned(found, strategy, fraction, position_T=torch.arange(len(found.expert_TK)), seed=1, **more)


def counts(found: Routing) -> list[int]:
    return count_assignments([found.expert_TK], experts=found.score_TE.shape[1])[0].tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_fraction_is_the_same_routing(strategy):
    found = routing()
    assert changed(found, strategy, 0) is found


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fraction", [0.3, 1])
def test_experts_of_a_token_differ_and_its_weights_sum_to_what_they_did(strategy, fraction):
    found = routing()
    other = changed(found, strategy, fraction)
    assert all(len(set(row)) == 2 for row in other.expert_TK.tolist())
    assert torch.allclose(other.weight_TK.sum(dim=1), torch.full((60,), 1.5))
    assert (other.weight_TK > 0).all()
    assert other.expert_TK.dtype == torch.int64
    scores = found.score_TE.gather(1, other.expert_TK)
    assert torch.allclose(other.weight_TK, scores / scores.sum(dim=1, keepdim=True) * 1.5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_larger_fraction_changes_the_tokens_of_a_smaller_and_no_other_token_is_touched(strategy):
    found = routing(tokens=400)
    touched = [
        (changed(found, "round-robin", fraction).expert_TK != found.expert_TK).any(dim=1) for fraction in (0.2, 0.6)
    ]
    assert 0.1 < touched[0].float().mean() < 0.3
    assert touched[1].float().mean() > 0.4
    other = changed(found, strategy, 0.2)
    chance = changed(found, "random", 0.2)
    still = (chance.expert_TK == found.expert_TK).all(dim=1) & ~touched[0]
    assert still.sum() > 200
    assert torch.equal(other.expert_TK[still], found.expert_TK[still])
    assert torch.equal(other.weight_TK[still], found.weight_TK[still])


@pytest.mark.parametrize("strategy", ["balanced", "round-robin"])
def test_all_tokens_even_out_to_exact_capacity(strategy):
    assert max(counts(routing())) > 30
    assert counts(changed(routing(), strategy, 1)) == [20] * 6


def test_a_part_of_the_tokens_fills_what_the_others_leave():
    found = routing(tokens=300)
    before, after = counts(found), counts(changed(found, "balanced", 0.7))
    assert max(after) <= 100 < max(before)


def test_what_does_not_divide_is_even_to_the_next_token():
    assert max(counts(changed(routing(tokens=61), "balanced", 1))) == 21


@pytest.mark.parametrize("seed", range(8))
def test_balanced_loses_the_least_score_of_all_even_choices(seed):
    torch.manual_seed(seed)
    score = torch.rand(4, 4)
    request = Request(score, torch.arange(4), torch.full((4,), 2), 2, 1.0)
    pairs = list(itertools.combinations(range(4), 2))
    best = max(
        sum(float(score[token, expert]) for token, pair in enumerate(choice) for expert in pair)
        for choice in itertools.product(pairs, repeat=4)
        if all(sum(expert in pair for pair in choice) == 2 for expert in range(4))
    )
    assert float(score.gather(1, balanced(request)).sum()) == pytest.approx(best)


def test_without_room_for_different_experts_the_least_goes_over():
    request = Request(torch.rand(3, 3), torch.arange(3), torch.tensor([6, 0, 0]), 2, 1.0)
    chosen = balanced(request)
    assert all(len(set(row)) == 2 for row in chosen.tolist())
    assert (chosen == 0).sum() == 3


def test_filtered_draws_stay_among_the_best_and_cold_draws_are_the_best():
    found = routing(tokens=200)
    best = found.score_TE.topk(4, dim=1).indices
    filtered = changed(found, "topk-filtered", 1, temperature=5.0)
    assert (filtered.expert_TK.unsqueeze(2) == best.unsqueeze(1)).any(dim=2).all()
    hot, cold = (changed(found, "temperature", 1, temperature=t) for t in (5.0, 0.001))
    assert (hot.expert_TK.unsqueeze(2) != best.unsqueeze(1)).all(dim=2).any()
    assert torch.equal(cold.expert_TK.sort(dim=1).values, found.expert_TK.sort(dim=1).values)
