"""From the losses of a ramp of learning rates to the rate that it suggests. No torch.

The rate rises by the same factor each step, and the loss is read before the step. The suggestion lies where the
smoothed loss falls fastest against the logarithm of the rate (Smith, arXiv 1506.01186): later it still falls, but
closer to where it breaks. Where other rules of the optimizer learn beside the one whose rate rises, the loss falls
without it, so what counts is how much less it is than after the same steps with this rule at rest.
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
WIDEST = 10.0
"""The ratio of the ends of an interval beyond which the seeds disagree: their mean is then no rate to train with."""


def ramp(low: float, high: float, steps: int) -> list[float]:
    """Rates from `low` to `high`, each the same factor above the one before."""
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


def smoothed(values: Sequence[float]) -> list[float]:
    """Means of `SMOOTHED` values in a row; empty for fewer."""
    if len(values) < SMOOTHED:
        return []
    return np.convolve(values, np.ones(SMOOTHED) / SMOOTHED, "valid").tolist()


def suggested(rates: Sequence[float], losses: Sequence[float], at_rest: Sequence[float] = ()) -> float | None:
    """The rate at which the loss falls fastest; None if it never falls, or for fewer than `FEWEST` steps. `at_rest` are
    the losses of the same steps with the rule at rest, which are subtracted; empty if no other rule learns."""
    if at_rest:
        losses = [loss - other for loss, other in zip(losses, at_rest, strict=False)]
    if len(losses) < FEWEST:
        return None
    loss = smoothed(losses)
    rate = smoothed([math.log(each) for each in rates[: len(losses)]])
    falling = loss.index(min(loss)) + 1  # beyond its minimum it only breaks
    if falling < 2:
        return None
    slope = np.gradient(loss[:falling], rate[:falling])
    return math.exp(rate[int(slope.argmin())])


def interval(rates: Sequence[float], step: float = 1.0) -> tuple[float, float, float] | None:
    """The geometric mean of the rates of several seeds, and Student's 95 % interval of it. A ramp tells no rates apart
    that are less than a `step` from each other, a factor, so the interval is at least that wide. None for fewer than
    three seeds."""
    if len(rates) < FEWEST_SEEDS:
        return None
    logs = [math.log(rate) for rate in rates]
    mean = statistics.fmean(logs)
    t = float(stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2))
    half = max(t * statistics.stdev(logs) / math.sqrt(len(logs)), math.log(step) / 2)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
