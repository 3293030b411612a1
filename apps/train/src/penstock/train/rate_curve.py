"""From the losses of a ramp of learning rates to the rate that it suggests. No torch.

The rate rises by the same factor each step, and the loss is read before the step. The suggestion lies where the
smoothed loss falls fastest against the logarithm of the rate (Smith, arXiv 1506.01186): later it still falls, but
closer to where it breaks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

SMOOTHED = 9
"""Steps of the window that the loss is averaged over. It lies around the step, so that it shifts nothing."""
FEWEST = 3 * SMOOTHED
"""Steps that a curve needs."""
CONFIDENCE = 0.95
FEWEST_SEEDS = 3


def ramp(low: float, high: float, steps: int) -> list[float]:
    """Rates from `low` to `high`, each the same factor above the one before."""
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


def smoothed(values: Sequence[float]) -> list[float]:
    """Means of `SMOOTHED` values in a row; empty for fewer."""
    if len(values) < SMOOTHED:
        return []
    return np.convolve(values, np.ones(SMOOTHED) / SMOOTHED, "valid").tolist()


def suggested(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the loss falls fastest; None if it never falls, or for fewer than `FEWEST` steps."""
    if len(losses) < FEWEST:
        return None
    loss = smoothed(losses)
    rate = smoothed([math.log(each) for each in rates[: len(losses)]])
    falling = loss.index(min(loss)) + 1  # beyond its minimum it only breaks
    if falling < 2:
        return None
    slope = np.gradient(loss[:falling], rate[:falling])
    return math.exp(rate[int(slope.argmin())])


def interval(rates: Sequence[float]) -> tuple[float, float, float] | None:
    """The geometric mean of the rates of several seeds, and Student's 95 % interval of it; the interval is the mean
    alone for equal rates. None for fewer than three."""
    if len(rates) < FEWEST_SEEDS:
        return None
    logs = [math.log(rate) for rate in rates]
    mean = statistics.fmean(logs)
    t = float(stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2))
    half = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
