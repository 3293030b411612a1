"""Intervals by drawing samples anew, against what is known of means and ratios."""

import math

import numpy as np
import pytest

from penstock.eval_suite.intervals import bootstrap
from penstock.eval_suite.metrics import bits_per_byte_standard_error


def means(scores):
    return {name: float(column_N.mean()) for name, column_N in scores.items()}


def test_the_standard_error_of_a_mean_is_the_known_one():
    value_N = np.random.default_rng(0).normal(3, 2, 400)
    interval = bootstrap(means, {"x": value_N}, seed=0)["x"]
    expected = value_N.std(ddof=1) / 20
    assert interval.standard_error == pytest.approx(expected, rel=0.1)
    assert (interval.low, interval.high) == pytest.approx(
        (value_N.mean() - 1.96 * expected, value_N.mean() + 1.96 * expected), abs=0.2 * expected
    )
    assert interval.samples == 400


def test_the_standard_error_of_a_ratio_is_that_of_the_ratio_estimator():
    draw = np.random.default_rng(1)
    byte_N = draw.integers(50, 500, 300).astype(float)
    nll_N = byte_N * draw.normal(1.2, 0.2, 300)

    def bits(scores):
        return {"bits": float(scores["nll"].sum() / math.log(2) / scores["bytes"].sum())}

    interval = bootstrap(bits, {"nll": nll_N, "bytes": byte_N}, seed=0)["bits"]
    expected = bits_per_byte_standard_error(nll_N, byte_N, np.arange(300))
    assert interval.standard_error == pytest.approx(expected, rel=0.1)


def test_a_share_is_covered_about_as_often_as_promised():
    draw = np.random.default_rng(2)
    found = [bootstrap(means, {"x": (draw.random(100) < 0.5).astype(float)}, seed)["x"] for seed in range(100)]
    assert 88 <= sum(interval.low <= 0.5 <= interval.high for interval in found) <= 100


def test_the_same_seed_draws_the_same_samples():
    scores = {"x": np.random.default_rng(3).normal(size=50)}
    assert bootstrap(means, scores, seed=4) == bootstrap(means, scores, seed=4)
    assert bootstrap(means, scores, seed=4) != bootstrap(means, scores, seed=5)


def test_one_sample_has_no_interval_and_neither_has_what_is_no_number():
    assert bootstrap(means, {"x": np.array([1.0])}, seed=0) == {}
    found = bootstrap(lambda scores: {**means(scores), "y": math.inf}, {"x": np.arange(9.0)}, seed=0)
    assert found.keys() == {"x"}
