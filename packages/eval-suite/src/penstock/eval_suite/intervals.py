"""How far a metric may be off by chance: the interval that suits how it comes from the samples.

- A share of samples that are right (0 or 1): Wilson's score interval, and Clopper and Pearson's exact one below 50
  samples. The percentile bootstrap covers a share of 0.95 in 63 % of cases at 20 samples, instead of 95 %.
- A mean, a ratio of sums such as nats per byte, and exp of them: Student's t with the jackknife's standard error,
  widened to where Hall's correction for skewness ends (`Studentised`). It needs no draws.
- Everything else, such as F1: the bias-corrected and accelerated bootstrap (Efron 1987), from 50 samples on.

Samples of one group (subject, article, or question that is asked several times) are alike, so groups are what varies:
the sums of each, or draws of whole groups. `tests/benchmarks/intervals.py` measures the coverage of each: 93 to 97 %.

Shape suffixes: N samples, K clusters (a group, or a sample of no group), R resamples, M metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, ndtri, stdtr, stdtrit

from penstock.hooks.contracts import Estimate, Interval

LEVEL = 0.95
FEWEST = 50
"""Below so many samples or clusters, intervals are exact, or rest on the normal distribution and say so."""
RESAMPLES = 2000
LEFT_OUT = 200
"""The jackknife of a metric leaves out so many parts of the samples in turn."""
ROUNDING = 1e-12
"""Relative difference of figures that are equal but for the order of their sums."""

WILSON = f"Wilson score, {LEVEL:.0%}"
WILSON_CLUSTERS = f"Wilson score with the effective number of samples, by cluster, {LEVEL:.0%}"
EXACT = f"Clopper-Pearson (exact), {LEVEL:.0%}"
STUDENT = f"Student's t with Hall's correction for skewness, {LEVEL:.0%}"
BCA = f"BCa bootstrap, {RESAMPLES:,} resamples, {LEVEL:.0%}"
BY_CLUSTER = ", by cluster"
FEW = f"; fewer than {FEWEST} samples, so it holds where they are about normal"

Scores = Mapping[str, NDArray[np.float64]]
Floats = NDArray[np.float64]
MetricsOf = Callable[[Scores], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Intervals:
    """Intervals of metrics by name, and for the metrics that have none, the reason."""

    found: Mapping[str, Interval]
    missing: Mapping[str, str]


def intervals_of(
    metrics_of: MetricsOf,
    scores: Scores,
    *,
    groups: Sequence[str] = (),
    estimates: Mapping[str, Estimate] | None = None,
    seed: int = 0,
) -> Intervals:
    """`groups` names the group of each sample; a sample named "" stands alone. If all samples share one group, they
    count as independent. Metrics without an estimate are drawn anew with `metrics_of`; the same `seed` draws the same
    samples."""
    estimates, cluster_N = estimates or {}, clusters_of(groups, _samples(scores))
    metrics = metrics_of(scores)
    found = {
        name: interval
        for name, estimate in estimates.items()
        if name in metrics and (interval := estimate_interval(estimate, scores, cluster_N)) is not None
    }
    drawn = [name for name in metrics if name not in estimates]
    if drawn and cluster_N.max(initial=-1) + 1 >= FEWEST:
        resampled = bca(lambda picked: _only(drawn, metrics_of(picked)), scores, cluster_N, seed)
        found |= {name: interval for name, (interval, _) in resampled.items()}
    few = f"fewer than {FEWEST} samples" if drawn and cluster_N.max(initial=-1) + 1 < FEWEST else ""
    reasons = {name: few if few and name in drawn else _reason(metrics[name]) for name in metrics if name not in found}
    return Intervals({name: found[name] for name in metrics if name in found}, reasons)


def clusters_of(groups: Sequence[str], samples: int) -> NDArray[np.int64]:
    """The number of the cluster of each sample, [N]: a group, or a sample of no group. A single group says nothing of
    how groups differ, so its samples are clusters of their own."""
    if len(set(groups)) < 2:
        return np.arange(samples)
    alone = (f"\0{number}" if group == "" else group for number, group in enumerate(groups))
    return np.unique(list(alone), return_inverse=True)[1].astype(np.int64)


def estimate_interval(estimate: Estimate, scores: Scores, cluster_N: NDArray[np.int64]) -> Interval | None:
    """Of a metric that is a share, a mean, a ratio of sums, or exp of one."""
    total_N = scores[estimate.total]
    weight_N = np.ones(len(total_N)) if estimate.weight is None else scores[estimate.weight]
    if is_share(estimate, scores):
        return share_interval(total_N, cluster_N)
    found = ratio_interval(estimate.scale * total_N, weight_N, cluster_N)
    if found is None:
        return None
    if estimate.scale > 0 and (total_N >= 0).all():  # lengths, counts and nats are never below 0
        found = replace(found, low=max(0.0, found.low))
        if estimate.scale == 1 and (total_N <= weight_N).all() and not estimate.exponential:
            found = replace(found, high=min(1.0, found.high))
    return _exponential(found) if estimate.exponential else found


def is_share(estimate: Estimate, scores: Scores) -> bool:
    """Whether the metric is the share of samples that are 1, where the others are 0."""
    if estimate.scale != 1 or estimate.exponential or not np.isin(scores[estimate.total], (0.0, 1.0)).all():
        return False
    return estimate.weight is None or bool((scores[estimate.weight] == 1).all())


def share_interval(right_N: Floats, cluster_N: NDArray[np.int64] | None = None) -> Interval | None:
    """Of the share of samples that are 1, where the others are 0."""
    samples = len(right_N)
    if samples == 0:
        return None
    share, clustered = float(right_N.mean()), cluster_N is not None and is_clustered(cluster_N)
    if clustered and cluster_N is not None:
        return _share_of_clusters(right_N, cluster_N)
    error = math.sqrt(share * (1 - share) / samples)
    if samples < FEWEST:
        return Interval(*_exact(float(right_N.sum()), samples), error, samples, f"{EXACT}, for fewer than {FEWEST}")
    return Interval(*_wilson(share, samples, float(ndtri((1 + LEVEL) / 2))), error, samples, WILSON)


def ratio_interval(total_N: Floats, weight_N: Floats, cluster_N: NDArray[np.int64] | None = None) -> Interval | None:
    """Of sum(total) / sum(weight), where samples of unequal weight are drawn together with their totals, such as the
    nats and bytes of documents. None where there are fewer than two effective samples (see `Studentised`)."""
    found = Studentised.of(total_N, weight_N, cluster_N)
    return None if found is None else found.interval()


@dataclass(frozen=True, slots=True)
class Studentised:
    """A ratio of sums over its standard error is about Student's t, but for skewness.

    The error is that of the ratios without one cluster each. There are as many degrees of freedom as clusters of equal
    weight would have (Kish: (sum w)^2 / sum w^2), less one. Hall (1992, "On the removal of skewness by transformation")
    maps T to g(T) = T + A T^2 / sqrt(K) + A^2 T^3 / 3K + B / sqrt(K), which is symmetric up to 1/K. For a mean A is a
    third and B a sixth of the skewness; a ratio adds to A how its residuals e go with the weights w of mean v,
    -E[e (w - v)] / (v sd(e)). By itself g is too short for heavy tails without skewness (93.7 % of t_5 at 50), and t
    for skewed values (90 % of log-normal ones), so an interval reaches to the farther end: 95.2 and 94.7 %.
    """

    value: float
    error: float
    clusters: int
    effective: float
    curve: float
    shift: float
    method: str

    @classmethod
    def of(cls, total_N: Floats, weight_N: Floats, cluster_N: NDArray[np.int64] | None = None) -> Self | None:
        """None for less than two effective clusters, and where a single one has all the weight."""
        method = STUDENT
        if cluster_N is not None and is_clustered(cluster_N):
            total_N, weight_N = _sums(total_N, cluster_N), _sums(weight_N, cluster_N)
            method += BY_CLUSTER
        total, weight, clusters = float(total_N.sum()), float(weight_N.sum()), len(total_N)
        effective = weight**2 / float(np.square(weight_N).sum()) if weight else 0.0
        if effective < 2 or weight_N.max() == weight:
            return None
        without_K = (total - total_N) / (weight - weight_N)
        error = math.sqrt((clusters - 1) / clusters * float(np.square(without_K - without_K.mean()).sum()))
        curve, shift = _skewness(total_N - total / weight * weight_N, weight_N)
        method += FEW if effective < FEWEST and clusters < FEWEST else ""
        return cls(total / weight, error, clusters, effective, curve, shift, method)

    def interval(self) -> Interval | None:
        if not (math.isfinite(self.value) and math.isfinite(self.error)):
            return None
        t = float(stdtrit(self.effective - 1, (1 + LEVEL) / 2))
        low = self.value - max(t, self._inverse(t)) * self.error
        high = self.value - min(-t, self._inverse(-t)) * self.error
        return Interval(low, high, self.error, self.clusters, self.method)

    def p_value(self) -> float:
        """Of the value being 0, two-sided: the level at which the interval would end at 0."""
        if self.error == 0:
            return 1.0 if self.value == 0 else 0.0
        t = self.value / self.error
        nearer = min(abs(t), abs(self._transformed(t)))
        return min(1.0, 2 * float(stdtr(self.effective - 1, -nearer)))

    def _transformed(self, t: float) -> float:
        scaled = self.curve / math.sqrt(self.clusters)
        return t + scaled * t**2 + scaled**2 * t**3 / 3 + self.shift / math.sqrt(self.clusters)

    def _inverse(self, value: float) -> float:
        scaled, value = self.curve / math.sqrt(self.clusters), value - self.shift / math.sqrt(self.clusters)
        return value if abs(scaled) < 1e-9 else (float(np.cbrt(1 + 3 * scaled * value)) - 1) / scaled


def _skewness(residual_K: Floats, weight_K: Floats) -> tuple[float, float]:
    """A and B of `Studentised`; 0 without any spread."""
    deviation = math.sqrt(float(np.square(residual_K).mean()))
    if deviation == 0:
        return 0.0, 0.0
    skewness = float((residual_K**3).mean()) / deviation**3
    with_weight = float((residual_K * (weight_K - weight_K.mean())).mean()) / (float(weight_K.mean()) * deviation)
    return skewness / 3 - with_weight, skewness / 6


def _exponential(interval: Interval) -> Interval | None:
    try:
        low, high = math.exp(interval.low), math.exp(interval.high)
    except OverflowError:
        return None
    middle = math.sqrt(low) * math.sqrt(high)
    return replace(interval, low=low, high=high, standard_error=interval.standard_error * middle)


def _share_of_clusters(right_N: Floats, cluster_N: NDArray[np.int64]) -> Interval | None:
    """Wilson's interval for as many independent samples as would vary like these clusters do (Kish's design effect);
    where all samples are equal, for as many as there are clusters."""
    samples, share = len(right_N), float(right_N.mean())
    found = Studentised.of(right_N, np.ones(samples), cluster_N)
    if found is None:
        return None
    alike = min(samples, share * (1 - share) / found.error**2) if found.error else found.effective
    t = float(stdtrit(found.effective - 1, (1 + LEVEL) / 2))
    return Interval(*_wilson(share, alike, t), found.error, found.clusters, WILSON_CLUSTERS)


def _wilson(share: float, samples: float, z: float) -> tuple[float, float]:
    squared = z * z / samples
    middle = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / samples + squared / samples / 4) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def _exact(right: float, samples: int) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low = float(betaincinv(right, samples - right + 1, tail)) if right else 0.0
    return low, float(betaincinv(right + 1, samples - right, 1 - tail)) if right < samples else 1.0


def bca(
    metrics_of: MetricsOf, scores: Scores, cluster_N: NDArray[np.int64], seed: int
) -> dict[str, tuple[Interval, float]]:
    """Bias-corrected and accelerated intervals (Efron 1987) with the p-values of 0; none for a metric that a resample
    makes infinite or no number."""
    members = np.split(np.argsort(cluster_N, kind="stable"), np.cumsum(np.bincount(cluster_N))[:-1])
    draw, clusters, metrics = np.random.default_rng(seed), len(members), metrics_of(scores)

    def of(picked_K: NDArray[Any]) -> Floats:
        index_N = np.concatenate([members[k] for k in picked_K]) if is_clustered(cluster_N) else picked_K
        drawn = metrics_of({name: column_N[index_N] for name, column_N in scores.items()})
        return np.array([drawn[name] for name in metrics])

    parts = np.array_split(draw.permutation(clusters), min(clusters, LEFT_OUT))
    left_out_KM = np.stack([of(np.setdiff1d(np.arange(clusters), part)) for part in parts])
    drawn_RM = np.stack([of(draw.integers(0, clusters, clusters)) for _ in range(RESAMPLES)])
    method = BCA + (BY_CLUSTER if is_clustered(cluster_N) else "")
    found: dict[str, tuple[Interval, float]] = {}
    for m, (name, value) in enumerate(metrics.items()):
        drawn_R, left_out_K = drawn_RM[:, m], left_out_KM[:, m]
        if math.isfinite(value) and np.isfinite(drawn_R).all() and np.isfinite(left_out_K).all():
            curve = _Accelerated.of(value, drawn_R, left_out_K)
            low, high = np.quantile(drawn_R, curve.shares(np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])))
            interval = Interval(float(low), float(high), float(drawn_R.std(ddof=1)), clusters, method)
            found[name] = interval, curve.p_value(drawn_R)
    return found


@dataclass(frozen=True, slots=True)
class _Accelerated:
    """Which share of the draws lies below the end of an interval, with the bias of their median and the acceleration:
    how the standard error changes with the value."""

    bias: float
    acceleration: float

    @classmethod
    def of(cls, value: float, drawn_R: Floats, left_out_K: Floats) -> Self:
        off_K = left_out_K.mean() - left_out_K
        squares = float(np.square(off_K).sum())
        varies = squares > len(off_K) * (ROUNDING * value) ** 2
        return cls(_normal(value, drawn_R), float((off_K**3).sum()) / (6 * squares**1.5) if varies else 0.0)

    def shares(self, level_E: Floats) -> Floats:
        z_E = self.bias + ndtri(level_E)
        return np.asarray(ndtr(self.bias + z_E / (1 - self.acceleration * z_E)))

    def p_value(self, drawn_R: Floats) -> float:
        """Two-sided: the level at which the interval would end at 0."""
        if not drawn_R.any():
            return 1.0
        z = _normal(0.0, drawn_R) - self.bias
        return 2 * float(ndtr(-abs(z / (1 + self.acceleration * z) - self.bias)))


def _normal(value: float, drawn_R: Floats) -> float:
    """The normal quantile of the share of draws below a value. Equal ones count half, which matters for metrics of few
    values, and a share is at least one draw."""
    equal_R = np.isclose(drawn_R, value, rtol=ROUNDING, atol=0)
    below = float(np.mean((drawn_R < value) & ~equal_R) + np.mean(equal_R) / 2)
    return float(ndtri(np.clip(below, 1 / (len(drawn_R) + 1), len(drawn_R) / (len(drawn_R) + 1))))


def _sums(value_N: Floats, cluster_N: NDArray[np.int64]) -> Floats:
    return np.bincount(cluster_N, weights=value_N).astype(np.float64)


def is_clustered(cluster_N: NDArray[np.int64]) -> bool:
    """Whether there are fewer clusters than samples."""
    return len(cluster_N) > 0 and int(cluster_N.max()) + 1 < len(cluster_N)


def _samples(scores: Scores) -> int:
    (samples,) = {len(column_N) for column_N in scores.values()} or {0}
    return samples


def _only(names: Sequence[str], metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in names}


def _reason(value: float) -> str:
    return "too few samples" if math.isfinite(value) else "the metric is not a finite number"
