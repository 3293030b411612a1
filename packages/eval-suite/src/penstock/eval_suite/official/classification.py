"""Scores of labels: accuracy, F1 and the correlation of Matthews, as scikit-learn defines them.

Shape suffixes: L labels, N examples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def accuracy(gold: Sequence[Hashable], said: Sequence[Hashable]) -> float:
    """The share of right labels. Raises ValueError, as all scores here do, for no examples or unequal numbers."""
    confusion_LL = _confusion(gold, said)[1]
    return float(confusion_LL.trace() / confusion_LL.sum())


def f1(gold: Sequence[Hashable], said: Sequence[Hashable], positive: Hashable) -> float:
    """Harmonic mean of the precision and recall of one label; 0 where nobody says it and nothing has it. MRPC and QQP
    are scored so, with 1 as the positive label."""
    labels, confusion_LL = _confusion(gold, said)
    return float(_f1(confusion_LL)[labels.index(positive)]) if positive in labels else 0.0


def macro_f1(gold: Sequence[Hashable], said: Sequence[Hashable]) -> float:
    """The mean of the F1 of every label that is said or is right."""
    return float(_f1(_confusion(gold, said)[1]).mean())


def matthews_correlation(gold: Sequence[Hashable], said: Sequence[Hashable]) -> float:
    """Correlation of the labels, -1 to 1, for two labels or more; 0 where one side has a single label. CoLA is scored
    so (https://doi.org/10.1016/j.compbiolchem.2004.09.006 for more than two labels)."""
    confusion_LL = _confusion(gold, said)[1].astype(np.float64)
    gold_L, said_L, examples = confusion_LL.sum(axis=1), confusion_LL.sum(axis=0), confusion_LL.sum()
    covariance = confusion_LL.trace() * examples - gold_L @ said_L
    spread = (examples**2 - gold_L @ gold_L) * (examples**2 - said_L @ said_L)
    return float(covariance / math.sqrt(spread)) if spread else 0.0


def _f1(confusion_LL: NDArray[np.int64]) -> NDArray[np.float64]:
    return 2 * confusion_LL.diagonal() / (confusion_LL.sum(axis=0) + confusion_LL.sum(axis=1))


def _confusion(gold: Sequence[Hashable], said: Sequence[Hashable]) -> tuple[list[Hashable], NDArray[np.int64]]:
    """Every label, and the examples [L, L] of each pair of the right label and the one said."""
    if len(gold) != len(said) or not len(gold):
        raise ValueError(f"{len(gold)} right labels and {len(said)} said: the same number is needed, at least one")
    labels = list(dict.fromkeys([*gold, *said]))
    number = {label: at for at, label in enumerate(labels)}
    confusion_LL = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion_LL, ([number[label] for label in gold], [number[label] for label in said]), 1)
    return labels, confusion_LL
