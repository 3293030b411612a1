"""Whether two rankings of the same cells agree: a short phase with the final one, equal tokens with equal FLOPs.

Lower is better in both lists. The lists are short, so every pair is looked at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two rankings of `cells` cells agree. Unrelated rankings have a tau of 0 and an accuracy of 0.5; None where
    ties leave no pair to compare."""

    cells: int
    tau: float | None
    accuracy: float | None


def agreement(first: Values, second: Values) -> Agreement:
    """Both figures; `second` is what the first should have predicted."""
    return Agreement(len(first), kendall_tau(first, second), decision_accuracy(first, second))


def kendall_tau(first: Values, second: Values) -> float | None:
    """Kendall's tau-b (Kendall, Biometrika 33(3), 1945): pairs in the same order minus pairs in the opposite order,
    over the geometric mean of the pairs that each list distinguishes. None if a list distinguishes no pair.

    >>> kendall_tau([1, 2, 3], [1, 2, 3]), kendall_tau([1, 2, 3], [3, 2, 1]), kendall_tau([1, 1], [1, 2])
    (1.0, -1.0, None)
    """
    one, other = _orders(first), _orders(second, len(first))
    distinguished = np.count_nonzero(one) * np.count_nonzero(other)
    return float((one * other).sum()) / math.sqrt(distinguished) if distinguished else None


def decision_accuracy(first: Values, second: Values) -> float | None:
    """The share of pairs that `second` distinguishes and for which `first` names the same winner (DataDecide, arXiv
    2504.11393). A tie in `first` is a coin toss and counts one half. None if `second` distinguishes no pair.

    >>> decision_accuracy([1, 2, 3], [1, 3, 2]), decision_accuracy([1, 1], [1, 2]), decision_accuracy([1, 2], [1, 1])
    (0.6666666666666666, 0.5, None)
    """
    guess, truth = _orders(first), _orders(second, len(first))
    guess, truth = guess[truth != 0], truth[truth != 0]
    return float((1 + guess * truth).mean() / 2) if truth.size else None


def ranks(values: Values) -> list[int]:
    """The rank of each value, from 1 for the lowest; equal values share the better rank.

    >>> ranks([0.3, 0.1, 0.2, 0.2])
    [4, 1, 2, 2]
    """
    ordered = sorted(values)
    return [ordered.index(value) + 1 for value in values]


def disagreements(first: Values, second: Values) -> list[tuple[int, int]]:
    """Pairs (i, j) in which `first` prefers i and `second` prefers j, those that `first` ranks best first.

    >>> disagreements([1, 2, 3], [2, 1, 3])
    [(0, 1)]
    """
    pairs = itertools.permutations(sorted(range(len(first)), key=lambda index: (first[index], index)), 2)
    return [(i, j) for i, j in pairs if first[i] < first[j] and second[i] > second[j]]


def _orders(values: Values, count: int | None = None) -> NDArray[np.float64]:
    """The sign of value j minus value i for each pair i < j."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or (count is not None and len(array) != count):
        raise ValueError(f"a ranking of shape {array.shape}" + ("" if count is None else f" for {count} cells"))
    if np.isnan(array).any():
        raise ValueError("a ranked value is NaN")
    one, other = np.triu_indices(len(array), 1)
    return np.sign(array[other] - array[one])
