"""What runs of several seeds show: means, and differences of runs with one seed, each with Student's interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from penstock.run.records.sweep import Difference

CONFIDENCE = 0.95
FEWEST_PAIRS = 3
"""Fewest values with an interval: two that happen to be equal would have one of width 0."""


def paired(pairs: Sequence[tuple[float, float]]) -> Difference | None:
    """Mean of the paired differences with the half width of its confidence interval, which needs `FEWEST_PAIRS`; None
    without pairs.

    >>> found = paired([(1.1, 1.0), (1.2, 1.0), (1.3, 1.0)])
    >>> round(found.mean, 4), round(found.half_width, 4)
    (0.2, 0.2484)
    """
    differences = [one - other for one, other in pairs]
    if not differences:
        return None
    return Difference(statistics.fmean(differences), half_width(differences), len(differences))


def half_width(values: Sequence[float]) -> float | None:
    """Half the width of the confidence interval of the mean of independent values; None if there are too few.

    >>> half_width([1.0, 2.0]) is None, round(half_width([1.0, 2.0, 3.0]), 4)
    (True, 2.4841)
    """
    count = len(values)
    if count < FEWEST_PAIRS:
        return None
    from scipy.special import stdtrit  # a second, which a command that shows stored figures does not need

    return float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(count)
