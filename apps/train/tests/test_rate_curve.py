"""What a ramp of learning rates suggests, on curves whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from penstock.run.records.rates import RateCurve
from penstock.train.rate_curve import FEWEST, SMOOTHED, WIDEST, interval, ramp, smoothed, suggested
from penstock.train.rate_finder import summed_up
from penstock.train.rate_page import suggestion

RATES = ramp(1e-5, 1.0, 101)


def curve(steepest: float, noise: float = 0.0) -> list[float]:
    """A loss that falls by 4 nats around a rate, and rises from ten times that rate on."""
    logs = np.log10(RATES) - math.log10(steepest)
    random = np.random.default_rng(0).normal(size=len(logs))
    return (6 - 4 / (1 + np.exp(-4 * logs)) + 20 * np.maximum(logs - 1, 0) ** 2 + noise * random).tolist()


@given(steepest=st.floats(1e-4, 1e-1), noise=st.floats(0, 0.03))
def test_the_suggestion_is_where_the_loss_falls_fastest(steepest, noise):
    assert suggested(RATES, curve(steepest, noise)) == pytest.approx(steepest, rel=0.8)
    assert suggested(RATES, curve(steepest)) == pytest.approx(steepest, rel=0.13)  # a step of the ramp


def test_a_ramp_that_broke_off_suggests_what_the_whole_one_does():
    losses = curve(1e-3)
    assert suggested(RATES, losses[:70]) == suggested(RATES, losses)


def test_a_loss_that_never_falls_or_too_short_a_ramp_suggests_nothing():
    assert suggested(RATES, [float(step) for step in range(101)]) is None
    assert suggested(RATES, curve(1e-3)[: FEWEST - 1]) is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=0, max_size=40))
def test_smoothing_is_the_mean_of_neighbours(values):
    windows = [values[first : first + SMOOTHED] for first in range(len(values) - SMOOTHED + 1)]
    assert smoothed(values) == pytest.approx([sum(each) / SMOOTHED for each in windows])


@given(st.lists(st.floats(1e-5, 1), min_size=3, max_size=6, unique=True))
def test_the_interval_is_that_of_student_on_logarithms(rates):
    logs = np.log(rates)
    expected = stats.t.interval(0.95, len(rates) - 1, logs.mean(), stats.sem(logs))
    found = interval(rates)
    assert found is not None
    assert [*map(math.log, found)] == pytest.approx([logs.mean(), *expected], abs=1e-9)


def test_two_seeds_have_no_interval_and_equal_ones_that_of_a_step():
    assert interval([0.1, 0.2]) is None
    assert interval([0.1, 0.1, 0.1]) == pytest.approx((0.1, 0.1, 0.1))
    assert interval([0.1, 0.1, 0.1], step=1.21) == pytest.approx((0.1, 0.1 / 1.1, 0.1 * 1.1))


@given(steepest=st.floats(1e-3, 1e-1), noise=st.floats(0, 0.3))
def test_what_other_rules_learn_is_no_suggestion(steepest, noise):
    """The other rule takes most of the loss in the first steps, when this rule's rate is far too low."""
    other = 8 * np.exp(-np.arange(len(RATES)) / 10) + noise * np.random.default_rng(1).normal(size=len(RATES))
    both = (np.array(curve(steepest)) + other).tolist()
    at_rest = (6 + other).tolist()
    assert suggested(RATES, both) != pytest.approx(steepest, rel=0.8)
    assert suggested(RATES, both, at_rest) == pytest.approx(steepest, rel=0.13)


def test_seeds_that_disagree_suggest_no_rate_but_show_their_interval():
    curves = [RateCurve(seed, [], [], rate) for seed, rate in enumerate([1e-4, 1e-2, 1.0])]
    found = summed_up("muon", "lr", 0.02, curves, step=1.1)
    assert found.suggested is None
    assert found.low is not None
    assert found.high is not None
    assert found.high / found.low > WIDEST
    assert "disagree" in suggestion(found)
    agreed = summed_up("muon", "lr", 0.02, [RateCurve(seed, [], [], 1e-2) for seed in range(3)], step=1.1)
    assert suggestion(agreed) == "0.01"
