from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.traces import load

COUNTS = hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=st.integers(0, 1000))


def dumb_max_violation(row):
    return (row.max() - row.mean()) / row.mean()


def dumb_gini(row):
    return np.abs(row[:, None] - row[None, :]).mean() / (2 * row.mean())


def dumb_variation(row):
    return row.std() / row.mean()


def dumb_entropy(row):
    if len(row) == 1:
        return 1.0
    return -sum(p * np.log(p) for p in row / row.sum() if p > 0) / np.log(len(row))


def dumb_dead(row):
    return float(sum(count == 0 for count in row))


@pytest.mark.parametrize(
    ("metric", "oracle"),
    [
        (load.max_violation, dumb_max_violation),
        (load.gini, dumb_gini),
        (load.coefficient_of_variation, dumb_variation),
        (load.entropy, dumb_entropy),
        (load.dead_experts, dumb_dead),
    ],
)
@given(counts_LE=COUNTS)
def test_metric_equals_its_definition_and_is_zero_without_assignments(metric, oracle, counts_LE):
    result = metric(counts_LE)
    expected = [oracle(row.astype(np.float64)) if row.sum() else 0.0 for row in counts_LE]
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(metric(counts_LE[None]), result[None], atol=0)


def test_no_layer_has_nothing_to_log():
    assert load.load_metrics(np.zeros((0, 4), dtype=np.int64)) == {}


def test_even_load_and_collapse_are_the_ends_of_every_scale():
    counts = np.array([[5, 5, 5, 5], [20, 0, 0, 0]], dtype=np.int32)
    assert load.max_violation(counts).tolist() == [0, 3]
    assert load.gini(counts).tolist() == [0, 0.75]
    assert load.entropy(counts).tolist() == [1, 0]
    assert load.dead_experts(counts).tolist() == [0, 3]


def test_logged_metrics_are_the_mean_and_the_worst_layer():
    counts = np.array([[5, 5, 5, 5], [20, 0, 0, 0]])
    assert load.load_metrics(counts) == {
        "max_violation": 1.5,
        "max_violation_worst": 3.0,
        "gini": 0.375,
        "cv": pytest.approx(np.sqrt(3) / 2),
        "entropy": 0.5,
        "dead_experts": 3.0,
    }


def test_spread_is_relative_to_the_mean_and_says_where_an_expert_is_dead():
    assert load.spread(np.array([1, 2, 3])) == {
        "max_over_mean": 1.5,
        "max_over_min": 3.0,
        "variance": pytest.approx(1 / 6),
    }
    assert load.spread(np.array([0, 4]))["max_over_min"] is None
    assert load.spread(np.array([0, 0])) == {"max_over_mean": 0.0, "max_over_min": None, "variance": 0.0}
