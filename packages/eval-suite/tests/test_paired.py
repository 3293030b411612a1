"""Differences of two models on the same samples, against tests of scipy and against how often they are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from penstock.eval_suite.intervals import Scores
from penstock.eval_suite.paired import Paired, holm, mcnemar, paired_metrics, tango
from penstock.hooks.contracts import Estimate

SHARE, RATIO, PERPLEXITY = Estimate("x"), Estimate("x", "w"), Estimate("x", "w", exponential=True)


def value_of(estimate: Estimate, scores: Scores) -> dict[str, float]:
    value = float(scores["x"].sum() / scores["w"].sum())
    return {"m": math.exp(value) if estimate.exponential else value}


def paired(estimate: Estimate, first: np.ndarray, second: np.ndarray, weight: np.ndarray | None = None) -> Paired:
    weight = np.ones(len(first)) if weight is None else weight
    sides: list[Scores] = [{"x": each.astype(float), "w": weight} for each in (first, second)]
    return paired_metrics(lambda scores: value_of(estimate, scores), *sides, estimates={"m": estimate})["m"]


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 5), (0, 6), (9, 9), (10, 14)])
def test_few_discordant_samples_have_the_exact_test(lost: int, gained: int):
    p_value, test = mcnemar(lost, gained)
    expected = stats.binomtest(lost, lost + gained, 0.5).pvalue if lost + gained else 1
    assert (p_value, test) == (pytest.approx(expected), "McNemar, exact")


def test_many_discordant_samples_have_the_chi_squared_test():
    p_value, test = mcnemar(20, 35)
    assert (p_value, test) == (pytest.approx(stats.chi2.sf(15**2 / 55, 1)), "McNemar, chi-squared")


@pytest.mark.parametrize(("lost", "gained", "samples"), [(3, 20, 60), (12, 14, 277), (40, 90, 1000), (7, 0, 50)])
def test_the_ends_of_tangos_interval_are_where_the_score_test_rejects(lost: int, gained: int, samples: int):
    """The likelihood of four cells, maximised over the shares of discordant pairs on a grid."""
    found = tango(lost, gained, samples, 0.0)
    for difference in (found.low, found.high):
        q = np.linspace(max(0.0, -difference), (1 - difference) / 2, 400_001)[1:-1]
        likelihood = gained * np.log(q + difference) + lost * np.log(np.maximum(q, 1e-300))
        likelihood = likelihood + (samples - lost - gained) * np.log(np.maximum(1 - 2 * q - difference, 1e-300))
        best = q[np.argmax(likelihood)]
        error = math.sqrt((2 * best + difference * (1 - difference)) / samples)
        assert abs((gained - lost) / samples - difference) / error == pytest.approx(1.96, abs=0.01)


def test_an_interval_of_shares_excludes_0_where_the_test_finds_a_difference():
    draw = np.random.default_rng(0)
    for _ in range(200):
        lost, gained = draw.integers(0, 30, 2)
        p_value, _ = mcnemar(int(lost), int(gained))
        found = tango(int(lost), int(gained), 100, p_value)
        assert (p_value < 0.05) == (not found.low <= 0 <= found.high)


def test_equal_models_differ_by_exactly_0_and_no_test_doubts_it():
    value_N = np.random.default_rng(1).random(60)
    for estimate in (SHARE, RATIO, PERPLEXITY):
        found = paired(estimate, value_N.round(), value_N.round(), 1 + value_N)
        assert found.interval is not None
        assert (found.second - found.first, found.interval.low, found.p_value) == (0, pytest.approx(0, abs=0.07), 1)
    found = paired(RATIO, value_N, value_N, 1 + value_N)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (0, 0)


def test_means_have_students_test_of_pairs():
    draw = np.random.default_rng(2)
    first_N = draw.normal(2, 1, 400)
    second_N = first_N + draw.normal(0.02, 0.2, 400)
    found = paired(SHARE, first_N, second_N)
    expected = stats.ttest_rel(second_N, first_N)
    interval = expected.confidence_interval()
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high), abs=1e-3)
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.01)


def test_a_perplexity_differs_as_its_logarithm_does():
    draw = np.random.default_rng(3)
    weight_N = draw.integers(5, 50, 300).astype(float)
    first_N = weight_N * draw.normal(2, 0.2, 300)
    second_N = first_N + weight_N * draw.normal(0.01, 0.05, 300)
    plain, raised = (paired(estimate, first_N, second_N, weight_N) for estimate in (RATIO, PERPLEXITY))
    assert plain.p_value == pytest.approx(raised.p_value, abs=0.02)
    assert plain.interval is not None
    assert raised.interval is not None
    assert raised.interval.low / plain.interval.low == pytest.approx(raised.first, rel=0.1)


def test_what_both_find_hard_makes_the_interval_narrow():
    draw = np.random.default_rng(4)
    common_N = draw.normal(0, 1, 500)
    first_N, second_N = (math.sqrt(0.9) * common_N + math.sqrt(0.1) * draw.normal(0, 1, 500) for _ in range(2))
    pairs, apart = (
        paired(SHARE, first_N, second_N).interval,
        paired(SHARE, first_N, draw.permutation(second_N)).interval,
    )
    assert pairs is not None
    assert apart is not None
    assert (apart.high - apart.low) / (pairs.high - pairs.low) == pytest.approx(math.sqrt(10), rel=0.15)


def median(scores: Scores) -> dict[str, float]:
    return {"m": float(np.median(scores["x"]))}


def test_any_metric_is_drawn_for_both_together():
    draw = np.random.default_rng(5)
    common_N = draw.normal(0, 1, 200)
    same = paired_metrics(median, {"x": common_N}, {"x": common_N + 0.01})["m"]
    assert same.interval is not None
    assert (same.interval.low, same.interval.high) == pytest.approx((0.01, 0.01))
    assert same.p_value is not None
    assert same.p_value < 0.01
    other = paired_metrics(median, {"x": common_N}, {"x": draw.normal(0, 1, 200)})["m"]
    assert other.interval is not None
    assert other.p_value is not None
    assert (other.p_value < 0.05) == (not other.interval.low <= 0 <= other.interval.high)
    few = paired_metrics(median, {"x": common_N[:9]}, {"x": common_N[:9]})["m"]
    assert (few.interval, few.p_value) == (None, None)


@pytest.mark.parametrize("samples", [50, 277])
def test_equal_models_are_rarely_said_to_differ(samples: int):
    draw, wrong = np.random.default_rng(6), 0
    for _ in range(600):
        hard_N = draw.normal(1, 1.5, samples)
        sides = [(draw.random(samples) < 1 / (1 + np.exp(-hard_N))).astype(float) for _ in range(2)]
        found = paired(SHARE, *sides)
        wrong += found.p_value is not None and found.p_value < 0.05
    assert wrong <= 0.065 * 600


def test_samples_of_a_group_vary_together():
    draw = np.random.default_rng(7)
    of_group = np.repeat(draw.normal(0, 1, 60), 5)
    sides: list[Scores] = [{"x": np.zeros(300)}, {"x": of_group + 0.1 * draw.normal(0, 1, 300)}]
    mean = {"m": Estimate("x")}
    groups = [str(number // 5) for number in range(300)]
    alone, together = (
        paired_metrics(lambda scores: {"m": float(scores["x"].mean())}, *sides, groups=each, estimates=mean)[
            "m"
        ].interval
        for each in ((), groups)
    )
    assert alone is not None
    assert together is not None
    assert together.samples == 60
    assert together.standard_error / alone.standard_error == pytest.approx(math.sqrt(5), rel=0.1)


def test_holm_orders_p_values_and_multiplies_each_by_the_tests_that_are_left():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
