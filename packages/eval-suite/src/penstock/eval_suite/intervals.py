"""How far a metric may be off by chance: the percentile bootstrap over independent samples (Efron 1979), and the
jackknife of a ratio (Tukey 1958).

A metric may be any function of the samples, such as a ratio of sums, and samples of unequal length keep their weight.
Percentile intervals are too narrow for few samples: 61 % coverage instead of 95 % at 20 samples and a share of 0.95.
The jackknife holds for ratios of sums alone, and needs no draws: at 50 documents whose lengths are log-normal (sigma 1)
it covers 94 to 96 %, the bootstrap 93 %. Where the documents' own values are as skewed as an exponential distribution,
it is 92 % and 89 %.

Shape suffixes: N samples, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from penstock.hooks.contracts import Interval

RESAMPLES = 1000
LEVEL = 0.95
METHOD = f"percentile bootstrap, {LEVEL:.0%}, {RESAMPLES} resamples"

JACKKNIFE = f"jackknife of the ratio, {LEVEL:.0%}, Student's t with the effective number of samples"

Scores = Mapping[str, NDArray[np.float64]]


def bootstrap(metrics_of: Callable[[Scores], Mapping[str, float]], scores: Scores, seed: int) -> dict[str, Interval]:
    """An interval for each metric; none if there are fewer than two samples, or if a metric of any resample is not
    finite. The same `seed` draws the same samples."""
    (samples,) = {len(column_N) for column_N in scores.values()} or {0}
    if samples < 2:
        return {}
    draw = np.random.default_rng(seed)
    drawn: list[Mapping[str, float]] = []
    for _ in range(RESAMPLES):
        index_N = draw.integers(0, samples, samples)
        drawn.append(metrics_of({name: column_N[index_N] for name, column_N in scores.items()}))
    found = {name: _interval(np.array([metrics[name] for metrics in drawn]), samples) for name in drawn[0]}
    return {name: interval for name, interval in found.items() if interval is not None}


def _interval(value_R: NDArray[Any], samples: int) -> Interval | None:
    if not np.isfinite(value_R).all():
        return None
    low, high = np.quantile(value_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), float(value_R.std(ddof=1)), samples, METHOD)


def ratio_interval(total_N: NDArray[np.float64], weight_N: NDArray[np.float64]) -> Interval | None:
    """Of sum(total) / sum(weight), where samples of unequal weight are drawn together with their totals, such as the
    nats and bytes of documents. The spread is that of the ratios without one sample each; Student's t has as many
    degrees of freedom as so many samples of equal weight (Kish: (sum w)^2 / sum w^2), less one. None where that is less
    than one degree, and where a single sample has all the weight."""
    effective = float(weight_N.sum() ** 2 / np.square(weight_N).sum()) if weight_N.any() else 0.0
    if effective < 2 or weight_N.max() == weight_N.sum():
        return None
    samples, ratio = len(total_N), float(total_N.sum() / weight_N.sum())
    without_N = (total_N.sum() - total_N) / (weight_N.sum() - weight_N)
    error = float(np.sqrt((samples - 1) / samples * np.square(without_N - without_N.mean()).sum()))
    half = error * float(stdtrit(effective - 1, (1 + LEVEL) / 2))
    return Interval(ratio - half, ratio + half, error, samples, JACKKNIFE)
