"""Intervals by drawing samples anew, against what is known of means and ratios."""

import math

import numpy as np
import pytest

from penstock.eval_suite.intervals import bootstrap, ratio_interval
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


def drawn_documents(draw: np.random.Generator, skewed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Nats and bytes of 50 documents of log-normal length, whose ratio is 0.02."""
    byte_N = np.ceil(draw.lognormal(6, 1, 50))
    own_N = draw.exponential(1, 50) - 1 if skewed else draw.normal(0, 1, 50)
    return byte_N * (0.02 + 0.05 * own_N) + 0.3 * np.sqrt(byte_N) * draw.normal(0, 1, 50), byte_N


def test_the_interval_of_a_ratio_covers_it_as_often_as_promised_at_50_documents():
    draw = np.random.default_rng(5)
    found = [ratio_interval(*drawn_documents(draw)) for _ in range(3000)]
    covered = np.mean([each.low <= 0.02 <= each.high for each in found if each is not None])
    assert 0.93 <= covered <= 0.97


def test_skewed_documents_are_covered_less_often_but_more_often_than_by_the_bootstrap():
    draw = np.random.default_rng(6)
    documents = [drawn_documents(draw, skewed=True) for _ in range(150)]
    jackknife = [ratio_interval(*each) for each in documents]
    resampled = [bootstrap(ratios, {"nll": nll_N, "bytes": byte_N}, 0)["x"] for nll_N, byte_N in documents]
    covered, by_bootstrap = (
        np.mean([each.low <= 0.02 <= each.high for each in found if each is not None])
        for found in (jackknife, resampled)
    )
    assert covered > by_bootstrap
    assert covered >= 0.88


def ratios(scores):
    return {"x": float(scores["nll"].sum() / scores["bytes"].sum())}


def test_equal_weights_give_students_interval_of_a_mean():
    value_N = np.random.default_rng(7).normal(3, 2, 20)
    interval = ratio_interval(value_N, np.ones(20))
    assert interval is not None
    error = value_N.std(ddof=1) / math.sqrt(20)
    assert interval.standard_error == pytest.approx(error)
    assert interval.high == pytest.approx(value_N.mean() + 2.093024 * error)  # t of 19 degrees, of any table
    assert interval.low == pytest.approx(value_N.mean() - 2.093024 * error)


def test_no_difference_has_an_interval_of_no_width():
    interval = ratio_interval(np.zeros(9), np.arange(1.0, 10.0))
    assert interval is not None
    assert (interval.low, interval.high, interval.standard_error) == (0, 0, 0)


@pytest.mark.parametrize("weights", [[1.0], [5.0, 0.0, 0.0], [100.0, 1.0, 1.0], [0.0, 0.0]])
def test_a_ratio_that_one_sample_decides_has_no_interval(weights: list[float]):
    assert ratio_interval(np.ones(len(weights)), np.array(weights)) is None
