"""How well a score tells good texts from ordinary ones, and how true the probabilities are that are made of it.

Shape suffix: N documents. `y_N` is 1 for good ones and 0 for ordinary ones; both kinds weigh the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.data_prep.files import import_extra

DRAWS = 1000
"""Bootstrap samples of an interval."""


@dataclass(frozen=True, slots=True)
class Separation:
    """The area under the ROC curve, and the mean distance between claimed and true probabilities over ten bins of equal
    size, each with its 95 % bootstrap interval over documents.

    The calibration error of a sample is larger than the true one, and that of its resamples larger still. So its
    interval is the basic bootstrap's (Davison and Hinkley 1997, section 5.2), from the estimate to the other side."""

    auc: float
    auc_interval: tuple[float, float]
    calibration_error: float
    calibration_interval: tuple[float, float]


def separation(score_N: Any, y_N: Any, *, probability_N: Any = None, seed: int = 0) -> Separation:
    """Of scores that are larger for good texts. Without `probability_N`, half of the documents calibrate the scores of
    the other half, and the other way round."""
    area = import_extra("sklearn.metrics", "contrastive", "measuring a classifier of texts").roc_auc_score
    probability_N = _crossed(score_N, y_N) if probability_N is None else probability_N
    auc, error = float(area(y_N, score_N)), calibration_error(probability_N, y_N)
    drawn = [
        (area(y_N[chosen], score_N[chosen]), calibration_error(probability_N[chosen], y_N[chosen]))
        for chosen in draws(y_N, seed)
    ]
    (auc_low, error_low), (auc_high, error_high) = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    low, high = max(0.0, 2 * error - error_high), 2 * error - error_low
    return Separation(auc, (float(auc_low), float(auc_high)), error, (float(min(low, error)), float(max(high, error))))


def draws(y_N: Any, seed: int) -> Iterator[Any]:
    """Bootstrap samples of documents, int64 [N] each, without those that lack a kind."""
    random = np.random.default_rng(seed)
    for _ in range(DRAWS):
        chosen = random.integers(0, len(y_N), len(y_N))
        if 0 < y_N[chosen].sum() < len(y_N):
            yield chosen


def platt(score_N: Any, y_N: Any) -> tuple[float, float]:
    """Slope and offset that make log odds of scores, where both kinds are equally common. Targets are not quite 0 and 1
    (Platt 1999), so that kinds which a score separates have no infinite slope."""
    linear = import_extra("sklearn.linear_model", "contrastive", "calibrating a classifier of texts")
    counts = {label: int((y_N == label).sum()) for label in (0, 1)}
    target_N = np.where(y_N == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    weight_N = np.where(y_N == 1, 1 / counts[1], 1 / counts[0]) * len(y_N) / 2
    fitted = linear.LogisticRegression(C=1e6).fit(
        np.concatenate([score_N, score_N])[:, None],
        np.repeat([1, 0], len(y_N)),
        sample_weight=np.concatenate([weight_N * target_N, weight_N * (1 - target_N)]),
    )
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def calibration_error(probability_N: Any, y_N: Any, bins: int = 10) -> float:
    """Mean distance between the mean probability of a bin and its share of good texts, over bins of equal size, with
    both kinds weighted as equally common."""
    weight_N = np.where(y_N == 1, 0.5 / max(1, y_N.sum()), 0.5 / max(1, len(y_N) - y_N.sum()))
    order = np.argsort(probability_N, kind="stable")
    return float(
        sum(
            abs((weight_N[part] * (probability_N[part] - y_N[part])).sum())
            for part in np.array_split(order, bins)
            if len(part)
        )
    )


def sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(x, dtype=np.float64)))


def _crossed(score_N: Any, y_N: Any) -> Any:
    """float64 [N]: probabilities of each half's scores by a calibration on the other half; both have both kinds."""
    half_N = np.empty(len(y_N), dtype=bool)
    for label in (0, 1):
        half_N[y_N == label] = np.arange(np.count_nonzero(y_N == label)) % 2 == 0
    probability_N = np.empty(len(y_N))
    for inside_N in (half_N, ~half_N):
        slope, offset = platt(score_N[~inside_N], y_N[~inside_N])
        probability_N[inside_N] = sigmoid(slope * score_N[inside_N] + offset)
    return probability_N
