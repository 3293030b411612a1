"""Agreement of rankings, against scipy and against a loop over pairs."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, rankdata

from penstock.sweep.agreement import agreement, decision_accuracy, disagreements, kendall_tau, ranks

values = st.integers(0, 6).map(float)  # few values, so that there are ties
rankings = st.lists(st.tuples(values, values), min_size=2, max_size=12).map(
    lambda pairs: tuple(zip(*pairs, strict=True))
)


@given(rankings)
def test_tau_equals_scipys(both):
    scipys: Any = kendalltau(*both)  # its types do not name the fields
    expected = scipys.statistic
    found = kendall_tau(*both)
    assert math.isnan(expected) if found is None else found == pytest.approx(expected, abs=1e-12)


@given(rankings)
def test_decision_accuracy_is_the_share_of_pairs_with_the_same_winner(both):
    scores = []
    for (a, x), (b, y) in itertools.combinations(zip(*both, strict=True), 2):
        if x != y:
            scores.append(0.5 if a == b else float((a < b) == (x < y)))
    assert decision_accuracy(*both) == (pytest.approx(np.mean(scores)) if scores else None)


@given(st.lists(values, min_size=1))
def test_ranks_equal_scipys(each):
    assert ranks(each) == rankdata(each, method="min").tolist()


@given(rankings)
def test_disagreements_are_the_pairs_that_lower_tau(both):
    first, second = both
    found = disagreements(first, second)
    assert all(first[i] < first[j] and second[i] > second[j] for i, j in found)
    pairs = itertools.combinations(range(len(first)), 2)
    assert len(found) == sum((first[i] - first[j]) * (second[i] - second[j]) < 0 for i, j in pairs)


def test_both_figures_come_together():
    found = agreement([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert (found.cells, found.tau, found.accuracy) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))


@pytest.mark.parametrize("call", [kendall_tau, decision_accuracy])
def test_rankings_of_other_cells_and_nan_are_refused(call):
    with pytest.raises(ValueError, match="for 2 cells"):
        call([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="NaN"):
        call([1.0, 2.0], [1.0, math.nan])
