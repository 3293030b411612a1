"""Intervals against what is known of shares, means and ratios, and against how often they cover the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from penstock.eval_suite.intervals import (
    Intervals,
    Scores,
    Studentised,
    clusters_of,
    intervals_of,
    ratio_interval,
    share_interval,
)
from penstock.eval_suite.metrics import bits_per_byte_standard_error
from penstock.hooks.contracts import Estimate, Interval


def mean(scores: Scores) -> dict[str, float]:
    return {"x": float(scores["x"].mean())}


def covered(truth: float, draw: Callable[[], Interval | None], times: int) -> float:
    found = [draw() for _ in range(times)]
    return float(np.mean([each is not None and each.low <= truth <= each.high for each in found]))


def of(column: list[float] | np.ndarray, estimate: Estimate, groups: list[str] | None = None) -> Interval:
    scores = {"x": np.array(column, dtype=np.float64)}
    found = intervals_of(lambda drawn: {"x": 0.0}, scores, groups=groups or (), estimates={"x": estimate})
    return found.found["x"]


@pytest.mark.parametrize(("right", "samples"), [(0, 50), (3, 60), (50, 50), (410, 1000)])
def test_a_share_has_wilsons_interval(right: int, samples: int):
    found = of([1.0] * right + [0.0] * (samples - right), Estimate("x"))
    expected = stats.binomtest(right, samples).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.method.startswith("Wilson")


@pytest.mark.parametrize(("right", "samples"), [(0, 1), (0, 9), (3, 9), (9, 9), (20, 49)])
def test_a_share_of_few_samples_has_the_exact_interval(right: int, samples: int):
    found = of([1.0] * right + [0.0] * (samples - right), Estimate("x"))
    expected = stats.binomtest(right, samples).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.method.startswith("Clopper-Pearson (exact)")


def test_a_mean_without_skewness_has_students_interval():
    value_N = np.array([*range(-10, 11)], dtype=float)
    found = ratio_interval(value_N, np.ones(21))
    assert found is not None
    expected = stats.t.interval(0.95, 20, value_N.mean(), stats.sem(value_N))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.standard_error == pytest.approx(stats.sem(value_N))
    assert "fewer than 50 samples" in found.method


def test_skewness_widens_an_interval_to_its_long_side_and_never_narrows_it():
    value_N = np.random.default_rng(0).lognormal(0, 1, 60)
    found = ratio_interval(value_N, np.ones(60))
    assert found is not None
    low, high = stats.t.interval(0.95, 59, value_N.mean(), stats.sem(value_N))
    assert found.low == pytest.approx(low)
    assert found.high > high + 0.1 * (high - low)


def test_the_standard_error_of_a_ratio_is_that_of_the_ratio_estimator():
    draw = np.random.default_rng(1)
    byte_N = draw.integers(50, 500, 300).astype(float)
    nll_N = byte_N * draw.normal(1.2, 0.2, 300)
    found = ratio_interval(nll_N / math.log(2), byte_N)
    assert found is not None
    assert found.standard_error == pytest.approx(bits_per_byte_standard_error(nll_N, byte_N, np.arange(300)), rel=0.02)


def test_a_perplexity_has_the_interval_of_its_logarithm():
    value_N = np.random.default_rng(2).normal(3, 1, 80)
    plain, perplexity = of(value_N, Estimate("x")), of(value_N, Estimate("x", exponential=True))
    assert (perplexity.low, perplexity.high) == pytest.approx((math.exp(plain.low), math.exp(plain.high)))


@pytest.mark.parametrize("samples", [50, 277])
def test_a_skewed_mean_is_covered_as_often_as_promised(samples: int):
    draw = np.random.default_rng(3)
    ones = np.ones(samples)
    assert 0.93 <= covered(math.exp(0.5), lambda: ratio_interval(draw.lognormal(0, 1, samples), ones), 3000) <= 0.97


def drawn_documents(draw: np.random.Generator, skewed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Nats and bytes of 50 documents of log-normal length, whose ratio is 0.02."""
    byte_N = np.ceil(draw.lognormal(6, 1, 50))
    own_N = draw.exponential(1, 50) - 1 if skewed else draw.normal(0, 1, 50)
    return byte_N * (0.02 + 0.05 * own_N) + 0.3 * np.sqrt(byte_N) * draw.normal(0, 1, 50), byte_N


@pytest.mark.parametrize("skewed", [False, True])
def test_a_ratio_is_covered_as_often_as_promised_at_50_documents(skewed: bool):
    draw = np.random.default_rng(5)
    assert 0.93 <= covered(0.02, lambda: ratio_interval(*drawn_documents(draw, skewed)), 3000) <= 0.97


def test_a_share_of_clusters_is_covered_as_often_as_promised_and_is_not_without_clusters():
    draw = np.random.default_rng(6)
    groups = [str(number // 10) for number in range(600)]

    def right() -> np.ndarray:
        return (draw.random(600) < np.repeat(draw.beta(4, 1, 60), 10)).astype(float)

    cluster_N = clusters_of(groups, 600)
    assert 0.93 <= covered(0.8, lambda: share_interval(right(), cluster_N), 2000) <= 0.97
    assert covered(0.8, lambda: share_interval(right()), 500) < 0.85


def test_samples_of_no_group_vary_alone_and_a_single_group_does_not_count():
    assert clusters_of(["", "a", "", "a", "b"], 5).tolist() == [0, 2, 1, 2, 3]
    assert clusters_of(["a", "a", "a"], 3).tolist() == [0, 1, 2]
    assert clusters_of([], 2).tolist() == [0, 1]


def test_equal_samples_of_each_cluster_count_once():
    once = np.random.default_rng(7).normal(0, 1, 70)
    groups = [str(number) for number in range(70) for _ in range(3)]
    single, thrice = of(once, Estimate("x")), of(np.repeat(once, 3), Estimate("x"), groups)
    assert (thrice.low, thrice.high, thrice.samples) == pytest.approx((single.low, single.high, single.samples))
    assert "by cluster" in thrice.method


def test_no_difference_has_an_interval_of_no_width_and_no_doubt():
    found = Studentised.of(np.zeros(9), np.arange(1.0, 10.0))
    assert found is not None
    interval = found.interval()
    assert interval is not None
    assert (interval.low, interval.high, interval.standard_error) == (0, 0, 0)
    assert found.p_value() == 1


def test_the_test_of_a_difference_agrees_with_its_interval():
    draw = np.random.default_rng(8)
    for _ in range(300):
        found = Studentised.of(draw.lognormal(0, 1, 60) - 1.2, draw.lognormal(0, 1, 60))
        assert found is not None
        interval = found.interval()
        assert interval is not None
        assert (found.p_value() < 0.05) == (not interval.low <= 0 <= interval.high)


@pytest.mark.parametrize("weights", [[1.0], [5.0, 0.0, 0.0], [100.0, 1.0, 1.0], [0.0, 0.0]])
def test_a_ratio_that_one_sample_decides_has_no_interval(weights: list[float]):
    assert ratio_interval(np.ones(len(weights)), np.array(weights)) is None


def median(scores: Scores) -> dict[str, float]:
    return {"x": float(np.median(scores["x"]))}


def resampled(value_N: np.ndarray, groups: list[str] | None = None, seed: int = 0) -> Intervals:
    return intervals_of(mean, {"x": value_N}, groups=groups or (), seed=seed)


def test_any_metric_has_the_interval_of_scipys_bootstrap():
    value_N = np.random.default_rng(9).exponential(1, 80)
    found = resampled(value_N).found["x"]
    expected = stats.bootstrap((value_N,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0))
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.05 * width)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.05 * width)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.05)


def test_the_same_seed_draws_the_same_samples():
    value_N = np.random.default_rng(10).normal(size=50)
    assert resampled(value_N, seed=4) == resampled(value_N, seed=4)
    assert resampled(value_N, seed=4) != resampled(value_N, seed=5)


def test_groups_are_drawn_as_a_whole():
    once = np.random.default_rng(11).normal(0, 1, 60)
    groups = [str(number) for number in range(60) for _ in range(4)]
    alone, together = resampled(once).found["x"], resampled(np.repeat(once, 4), groups).found["x"]
    assert together.standard_error == pytest.approx(alone.standard_error, rel=0.1)
    assert together.samples == 60


def test_what_has_no_interval_says_why():
    found = intervals_of(lambda scores: {**median(scores), "y": math.inf}, {"x": np.arange(60.0)})
    assert (found.found.keys(), found.missing) == ({"x"}, {"y": "the metric is not a finite number"})
    assert resampled(np.arange(49.0)).missing == {"x": "fewer than 50 samples"}
    alone = intervals_of(mean, {"x": np.array([0.5])}, estimates={"x": Estimate("x")})
    assert (alone.found, alone.missing) == ({}, {"x": "too few samples"})


def test_no_interval_of_lengths_or_nats_is_below_what_they_can_be():
    few = {"words": np.array([0.0, 9.0, 1.0]), "nats": np.array([0.1, 7.0, 0.2]), "change": np.array([-1.0, 9.0, 1.0])}
    estimates = {
        "words": Estimate("words"),
        "perplexity": Estimate("nats", exponential=True),
        "change": Estimate("change"),
    }
    found = intervals_of(lambda _: dict.fromkeys(estimates, 1.0), few, estimates=estimates).found
    assert (found["words"].low, found["perplexity"].low) == (0.0, 1.0)
    assert found["change"].low < 0
