"""Synthetic routing against the laws that it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hooks import ProblemError
from penstock.netsim.synthetic import LAWS, draw_experts, inclusion, synthetic_trace


@pytest.mark.parametrize("law", LAWS)
def test_every_token_takes_k_different_experts(law):
    trace = synthetic_trace(law, experts=16, k=4, layers=2, steps=3, tokens=200)
    assert trace.expert_NLK is not None
    assert trace.counts_SLE.shape == (3, 2, 16)
    assert (trace.counts_SLE.sum(axis=-1) == 200 * 4).all()
    assert all(len(set(row)) == 4 for row in trace.expert_NLK.reshape(-1, 4).tolist())
    counted = np.bincount(trace.expert_NLK[:200, 1].ravel(), minlength=16)
    assert (counted == trace.counts_SLE[0, 1]).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_inclusion_sums_to_k_and_keeps_ratios_below_one(seed, k):
    weight_E = np.random.default_rng(seed).pareto(1.0, 12) + 0.01
    probability_E = inclusion(weight_E, k)
    assert probability_E.sum() == pytest.approx(k)
    assert (probability_E <= 1).all()
    below = probability_E < 1 - 1e-9
    assert np.ptp(probability_E[below] / weight_E[below]) == pytest.approx(0, abs=1e-9)


def test_experts_are_taken_as_often_as_their_weights_say():
    weight_E = np.array([1.0, 2, 3, 4, 2, 2, 1, 1])
    expert_TK = draw_experts(np.random.default_rng(0), weight_E, 3, 40_000)
    share_E = np.bincount(expert_TK.ravel(), minlength=8) / 40_000
    assert share_E == pytest.approx(inclusion(weight_E, 3), abs=0.01)


def test_the_second_expert_of_zipf_is_taken_half_as_often():
    trace = synthetic_trace("zipf", experts=64, k=1, layers=1, steps=1, tokens=100_000)
    first, second = np.sort(trace.counts_SLE[0, 0])[::-1][:2]
    assert first / second == pytest.approx(2, rel=0.05)


def test_every_token_of_incast_takes_the_same_expert():
    trace = synthetic_trace("incast", experts=8, k=2, layers=1, steps=1, tokens=100)
    assert trace.counts_SLE.max() == 100


def test_a_token_stays_within_its_groups():
    trace = synthetic_trace("log-normal", experts=32, k=4, layers=1, steps=1, tokens=500, groups=8, group_limit=2)
    assert trace.expert_NLK is not None
    groups = np.sort(trace.expert_NLK[:, 0] // 4, axis=1)
    assert max(len(set(row)) for row in groups.tolist()) == 2


def test_the_same_seed_gives_the_same_trace():
    first, again, other = (synthetic_trace("zipf", steps=2, tokens=64, seed=seed) for seed in (1, 1, 2))
    assert (first.counts_SLE == again.counts_SLE).all()
    assert (first.counts_SLE != other.counts_SLE).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"law": "zip"}, "did you mean 'zipf'"),
        ({"experts": 4, "k": 5}, "cannot choose 5 of 4"),
        ({"groups": 3}, "64 experts in 3 groups"),
        ({"groups": 8, "group_limit": 1, "k": 9}, "cannot choose 9 of 8"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_numbers_that_do_not_fit_are_problems(wrong, message):
    with pytest.raises(ProblemError, match=message):
        synthetic_trace(**wrong)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"skew": float("nan")}, "skew is nan"),
        ({"skew": -5.0}, "skew is -5.0"),
        ({"skew": 1e9}, "skew is 1000000000.0"),
        ({"law": "power-law", "skew": 0.0}, "skew is 0.0, use a number from 0.05 to 100"),
        ({"seed": -1}, "seed is -1"),
        ({"hidden_size": 0}, "hidden_size is 0"),
    ],
)
def test_numbers_that_no_draw_can_follow_are_refused(settings, said):
    with pytest.raises(ProblemError, match=said):
        synthetic_trace(**{"law": "zipf", "steps": 1, "tokens": 8, **settings})


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("skew", [0.05, 100])
def test_the_limits_of_skew_can_be_drawn(law, skew):
    trace = synthetic_trace(law, experts=256, k=8, layers=1, steps=1, tokens=64, skew=skew)
    assert trace.counts_SLE.sum() == 8 * 64
