"""Two models on the same samples: how far a difference of their metrics may be off by chance, and whether there is one.

What both find hard cancels out in the difference of each sample, so its interval is narrower than those of the two: by
sqrt(1 - correlation) if both vary alike. A difference has the interval and the test of its kind:

- shares of samples that are right: Tango's score interval and McNemar's test of the samples that only one has right,
  exact if they are few;
- means, ratios of sums, exp of them, and whatever varies by cluster: `Studentised` on each sample's part in the
  difference;
- everything else: the BCa bootstrap, which draws the samples of both together.

Shape suffixes: N samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, chdtrc, ndtri

from penstock.eval_suite.intervals import (
    FEWEST,
    LEVEL,
    Floats,
    MetricsOf,
    Scores,
    Studentised,
    bca,
    clusters_of,
    is_clustered,
    is_share,
)
from penstock.hooks.contracts import Estimate, Interval

FEW_DISCORDANT = 25
"""Fewer samples that only one model has right make McNemar's test exact."""
TANGO = f"Tango's score interval of paired shares, {LEVEL:.0%}"
EXACT = "McNemar, exact"
MCNEMAR = "McNemar, chi-squared"


@dataclass(frozen=True, slots=True)
class Paired:
    """A metric of both, the interval of the second less the first, and the p-value of no difference by `test`; both are
    None where there are too few samples. `discordant` are the samples that only the first, and only the second has
    right, for shares."""

    first: float
    second: float
    interval: Interval | None
    p_value: float | None
    test: str | None
    discordant: tuple[int, int] | None = None


def paired_metrics(
    metrics_of: MetricsOf,
    first: Scores,
    second: Scores,
    *,
    groups: Sequence[str] = (),
    estimates: Mapping[str, Estimate] | None = None,
    seed: int = 0,
) -> dict[str, Paired]:
    """Of each metric that both have, for scores of the same samples in the same order."""
    estimates, samples = estimates or {}, len(next(iter(first.values())))
    cluster_N = clusters_of(groups, samples)
    of_first, of_second = metrics_of(first), metrics_of(second)
    names = [name for name in of_first if name in of_second]
    drawn = [name for name in names if name not in estimates]
    resampled = _resampled(metrics_of, first, second, drawn, cluster_N, seed) if drawn else {}
    found: dict[str, Paired] = {}
    for name in names:
        if name in estimates:
            interval, p_value, test, discordant = _estimated(estimates[name], first, second, cluster_N)
        else:
            (interval, p_value), discordant = resampled.get(name, (None, None)), None
            test = None if interval is None else "BCa bootstrap"
        found[name] = Paired(of_first[name], of_second[name], interval, p_value, test, discordant)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for so many tests (Holm 1979): of all that are below 0.05, one is false in 5 % of cases at most.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = highest
    return adjusted


_Found = tuple[Interval | None, float | None, str | None, tuple[int, int] | None]


def _estimated(estimate: Estimate, first: Scores, second: Scores, cluster_N: NDArray[np.int64]) -> _Found:
    if is_share(estimate, first) and is_share(estimate, second) and not is_clustered(cluster_N):
        return _shares(first[estimate.total], second[estimate.total])
    (total_N, weight_N), (of_second_N, by_second_N) = _parts(estimate, first), _parts(estimate, second)
    found = Studentised.of(of_second_N - total_N, (weight_N + by_second_N) / 2, cluster_N)
    if found is None or not math.isfinite(found.error):
        return None, None, None, None
    return found.interval(), found.p_value(), "Student's t", None


def _parts(estimate: Estimate, scores: Scores) -> tuple[Floats, Floats]:
    """Totals and weights of mean 1 whose ratio is the metric, and varies as it does to the first order."""
    total_N = estimate.scale * scores[estimate.total]
    weight_N = np.ones(len(total_N)) if estimate.weight is None else scores[estimate.weight]
    mean = float(weight_N.mean())
    if mean == 0:
        return np.full(len(total_N), math.nan), weight_N
    total_N, weight_N = total_N / mean, weight_N / mean
    if not estimate.exponential:
        return total_N, weight_N
    ratio = float(total_N.mean())
    slope = math.exp(ratio) if ratio < 700 else math.inf
    return slope * (weight_N + total_N - ratio * weight_N), weight_N


def _shares(first_N: Floats, second_N: Floats) -> _Found:
    lost, gained = int((first_N > second_N).sum()), int((second_N > first_N).sum())
    p_value, test = mcnemar(lost, gained)
    return tango(lost, gained, len(first_N), p_value), p_value, test, (lost, gained)


def mcnemar(lost: int, gained: int) -> tuple[float, str]:
    """The two-sided p-value that a sample which only one has right is as likely the one's as the other's."""
    discordant = lost + gained
    if discordant < FEW_DISCORDANT:
        return min(1.0, 2 * float(bdtr(min(lost, gained), discordant, 0.5))), EXACT
    return float(chdtrc(1, (lost - gained) ** 2 / discordant)), MCNEMAR


def tango(lost: int, gained: int, samples: int, p_value: float) -> Interval:
    """Of the share of the second less that of the first (Tango 1998): all differences that a score test does not
    reject. Where the exact test allows no difference, the interval reaches 0."""
    share = (gained - lost) / samples
    z = float(ndtri((1 + LEVEL) / 2))

    def score(difference: float) -> float:
        linear = -lost - gained + (2 * samples - gained + lost) * difference
        constant = -lost * difference * (1 - difference)
        root = math.sqrt(max(0.0, linear**2 - 8 * samples * constant))
        spread = samples * (2 * (root - linear) / (4 * samples) + difference * (1 - difference))
        off = gained - lost - samples * difference
        return off / math.sqrt(spread) if spread > 0 else math.copysign(math.inf, off) if off else 0.0

    low = _root(lambda difference: score(difference) - z, -1.0, share)
    high = _root(lambda difference: score(difference) + z, share, 1.0)
    if p_value >= 1 - LEVEL:
        low, high = min(0.0, low), max(0.0, high)
    error = math.sqrt(max(0.0, (lost + gained) / samples - share**2) / samples)
    return Interval(low, high, error, samples, TANGO)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses 0, or the end where it does not, to a billionth."""
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    for _ in range(32):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def _resampled(
    metrics_of: MetricsOf,
    first: Scores,
    second: Scores,
    names: Sequence[str],
    cluster_N: NDArray[np.int64],
    seed: int,
) -> dict[str, tuple[Interval, float]]:
    """Differences of metrics on draws of the samples of both together."""
    if int(cluster_N.max()) + 1 < FEWEST:
        return {}
    both = {f"0/{name}": column_N for name, column_N in first.items()}
    both |= {f"1/{name}": column_N for name, column_N in second.items()}

    def differences(drawn: Scores) -> dict[str, float]:
        sides = [{name[2:]: each for name, each in drawn.items() if name.startswith(side)} for side in ("0/", "1/")]
        of_first, of_second = map(metrics_of, sides)
        return {name: of_second[name] - of_first[name] for name in names}

    return bca(differences, both, cluster_N, seed)
