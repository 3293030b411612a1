"""How many points a form of a model loses of a task's figure, compared example by example and seed by seed.

Seeds and examples are both samples, and each example is seen with every seed. The variance of the mean difference is
that of the seeds' means over the number of seeds plus that of the examples' means over the number of examples, which
counts what the two do together twice: the interval is a little wide, never narrow. A figure that is a ratio, such as
F1, is linear in its examples close to its value (the infinitesimal jackknife, Efron 1982), and equals accuracy where
every weight is 1.

Shape suffixes: S seeds, N examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Column = NDArray[np.float64]
CONFIDENCE = 0.95
MOST_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Loss:
    """Points lost (100 is all): the mean with the half width of its interval, and the variances that it is made of, of
    one seed and of the mean over examples."""

    mean: float
    half_width: float
    of_a_seed: float
    of_examples: float

    def seeds_to_decide(self, limit: float) -> int | None:
        """The fewest seeds whose interval would leave `limit` on one side, if mean and variances stayed what they are;
        None if no number of seeds would, because the examples are too few.

        >>> Loss(1.0, 1.5, of_a_seed=1.0, of_examples=0.01).seeds_to_decide(2.0)
        7
        >>> Loss(1.9, 1.5, of_a_seed=1.0, of_examples=0.04).seeds_to_decide(2.0) is None
        True
        """
        away = abs(limit - self.mean)
        numbers = range(2, MOST_SEEDS + 1)
        return next((n for n in numbers if _half_width(n, self.of_a_seed, self.of_examples) < away), None)


def points_lost(before: Sequence[tuple[Column, Column]], after: Sequence[tuple[Column, Column]]) -> Loss:
    """Of two forms of a model: for each seed, value and weight of every example, in the same order. There are two seeds
    or more.

    >>> ones = np.ones(4)
    >>> full, half = (np.array([1.0, 1, 1, 1]), ones), (np.array([1.0, 0, 1, 0]), ones)
    >>> points_lost([full, full], [half, half]).mean
    50.0
    """
    lost_SN = 100 * (np.stack([_influence(*one) for one in before]) - np.stack([_influence(*one) for one in after]))
    by_seed_S = 100 * np.array([_figure(*one) - _figure(*other) for one, other in zip(before, after, strict=True)])
    of_a_seed = float(by_seed_S.var(ddof=1))
    of_examples = float(lost_SN.mean(axis=0).var(ddof=1)) / lost_SN.shape[1]
    half = _half_width(len(by_seed_S), of_a_seed, of_examples)
    return Loss(float(by_seed_S.mean()), half, of_a_seed, of_examples)


def _half_width(seeds: int, of_a_seed: float, of_examples: float) -> float:
    """Student's quantile has the degrees of freedom of the seeds, the fewer of the two."""
    return float(stdtrit(seeds - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(of_a_seed / seeds + of_examples)


def _figure(value_N: Column, weight_N: Column) -> float:
    total = float(weight_N.sum())
    return float(value_N.sum()) / total if total else 0.0


def _influence(value_N: Column, weight_N: Column) -> Column:
    """What each example adds to the figure, times their number; the mean is 0."""
    mean = float(weight_N.mean())
    return (value_N - _figure(value_N, weight_N) * weight_N) / mean if mean else np.zeros_like(value_N)


def verdict(loss: Loss, limit: float) -> str:
    """One of three sentences.

    >>> verdict(Loss(1.0, 0.5, 1.0, 0.0), 2.0), verdict(Loss(3.0, 0.5, 1.0, 0.0), 2.0)
    ('holds', 'fails')
    >>> verdict(Loss(1.0, 1.5, of_a_seed=1.0, of_examples=0.01), 2.0)
    'not decided: 7 seeds would'
    """
    if loss.mean + loss.half_width < limit:
        return "holds"
    if loss.mean - loss.half_width > limit:
        return "fails"
    seeds = loss.seeds_to_decide(limit)
    return "not decided: it takes more examples" if seeds is None else f"not decided: {seeds} seeds would"
