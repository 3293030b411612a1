"""What a ramp of learning rates suggests, on curves whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from penstock.train.rate_curve import FEWEST, SMOOTHED, interval, ramp, smoothed, suggested

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


def test_two_seeds_have_no_interval_and_equal_ones_have_no_width():
    assert interval([0.1, 0.2]) is None
    assert interval([0.1, 0.1, 0.1]) == pytest.approx((0.1, 0.1, 0.1))
