from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hooks.contracts import BatchLoad
from penstock.routers import imbalance, load
from penstock.routers.losses import GlobalLoss, chosen_counts, switch_loss
from penstock.routers.topk import SoftmaxTopK

MAKERS = {
    "gini": (imbalance.gini_loss, load.gini),
    "variance": (imbalance.variance_loss, lambda counts_E: load.coefficient_of_variation(counts_E) ** 2),
    "cv": (imbalance.variation_loss, load.coefficient_of_variation),
    "entropy": (imbalance.entropy_loss, lambda counts_E: 1 - load.entropy(counts_E)),
}
EACH = pytest.mark.parametrize("name", MAKERS)


def routing_of(tokens: int, seed: int, experts: int = 5):
    """fp64, with a choice that is not the top-k of the scores, as under a selection bias."""
    from penstock.hooks.contracts import Routing

    generator = torch.Generator().manual_seed(seed)
    logits_TE = torch.randn(tokens, experts, dtype=torch.float64, generator=generator, requires_grad=True)
    expert_TK = torch.rand(tokens, experts, generator=generator).argsort()[:, :2]
    return Routing(expert_TK, torch.zeros(tokens, 2), logits_TE, logits_TE.softmax(-1))


@EACH
@given(tokens=st.integers(1, 30), seed=st.integers(0, 99))
@settings(deadline=None)
def test_the_value_is_the_metric_of_the_load(name, tokens, seed):
    make, metric = MAKERS[name]
    routing = routing_of(tokens, seed)
    assert make()(routing).item() == pytest.approx(metric(chosen_counts(routing)).item(), abs=1e-4)


@EACH
def test_the_gradient_is_the_metric_s_derivative_at_the_load_times_that_of_the_mean_scores(name):
    make, _ = MAKERS[name]
    routing, again = routing_of(40, 3), routing_of(40, 3)
    make()(routing).backward()
    share_E = (chosen_counts(again).double() / 80).numpy()
    measure = make().measure
    step = 1e-6
    slope_E = [
        float(measure(torch.tensor(share_E + step * row)) - measure(torch.tensor(share_E - step * row))) / 2 / step
        for row in np.eye(5)
    ]
    (torch.tensor(slope_E) * again.score_TE.mean(0)).sum().backward()
    torch.testing.assert_close(routing.logits_TE.grad, again.logits_TE.grad, rtol=1e-5, atol=1e-9)


@EACH
def test_following_the_gradient_evens_out_the_real_load(name):
    make, metric = MAKERS[name]
    torch.manual_seed(0)
    router = SoftmaxTopK(16, 8)
    hidden_TD = torch.randn(512, 16) + 0.5
    optimizer = torch.optim.Adam(router.parameters(), lr=0.003)
    before = metric(chosen_counts(router(hidden_TD))).item()
    for _ in range(150):
        optimizer.zero_grad()
        make()(router(hidden_TD)).backward()
        optimizer.step()
    assert metric(chosen_counts(router(hidden_TD))).item() < 0.35 * before


@EACH
@given(cuts=st.lists(st.integers(0, 12), max_size=4), padding=st.integers(0, 3), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_value_and_gradient_are_the_same_for_any_split_and_padding(name, cuts, padding, seed):
    make, _ = MAKERS[name]
    whole, parted = routing_of(12, seed), routing_of(12, seed)
    expected = make()(whole)
    expected.backward()
    batch = BatchLoad(chosen_counts(parted), 12)
    total = torch.zeros((), dtype=torch.float64)
    for start, end in pairwise([0, *sorted(cuts), 12]):
        index = torch.cat([torch.arange(start, end), torch.zeros(padding, dtype=torch.int64)])
        part = type(parted)(
            *(getattr(parted, field)[index] for field in ("expert_TK", "weight_TK", "logits_TE", "score_TE"))
        )
        total = total + make()(part, torch.arange(len(index)) < end - start, batch=batch)
    total.backward()
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(parted.logits_TE.grad, whole.logits_TE.grad, rtol=0, atol=1e-10)


@EACH
def test_an_even_load_has_neither_value_nor_gradient(name):
    make, _ = MAKERS[name]
    routing = routing_of(10, 0)
    batch = BatchLoad(torch.full((5,), 4), 10)
    loss = make()(routing, batch=batch)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=2e-6)
    assert routing.logits_TE.grad.abs().max() < 1e-12


def test_dead_experts_have_a_finite_pull_and_one_expert_nothing_to_lose():
    routing = routing_of(10, 0)
    imbalance.entropy_loss()(routing, batch=BatchLoad(torch.tensor([20, 0, 0, 0, 0]), 10)).backward()
    assert routing.logits_TE.grad.isfinite().all()
    assert imbalance.entropy_gap(torch.ones(1)).item() == 0


def test_variance_pulls_exactly_as_the_global_loss_does_and_twice_as_hard():
    first, second = routing_of(30, 1), routing_of(30, 1)
    imbalance.variance_loss()(first).backward()
    (2 * GlobalLoss()(second)).backward()
    torch.testing.assert_close(first.logits_TE.grad, second.logits_TE.grad, rtol=0, atol=1e-12)


def test_the_global_loss_without_a_batch_is_the_switch_loss_of_the_pass():
    routing = routing_of(30, 1)
    expected = switch_loss(score_TE=routing.score_TE, counts_E=chosen_counts(routing), tokens=30)
    assert torch.equal(GlobalLoss()(routing), expected)
    assert GlobalLoss(counts="lagged").scope == "lagged"
