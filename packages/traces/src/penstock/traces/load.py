"""How uneven the load of experts is. Each figure is defined here once, for numpy arrays and for torch tensors.

Figures take integer counts [..., E] of anything (a step, a domain, a whole run) and return fp64 [...] of the same kind
and on the same device, so that training logs them without leaving its device and a trace needs no torch.
`max_violation` of one step's counts is the MaxVio_batch of arXiv 2408.15664, and of the summed counts of a set
its MaxVio_global. Every figure of a row without assignments is 0, because such a row says nothing about its experts.

Shape suffixes: E experts, L mixture-of-experts layers.
"""

from __future__ import annotations

import math
import sys
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Counts = TypeVar("Counts")
"""A numpy array or a torch tensor."""


def max_violation(counts_E: Counts) -> Counts:
    """MaxVio = (max - mean) / mean of the last dimension (arXiv 2408.15664 Eq. 4); 0 is even, E - 1 is collapse."""
    load_E = _as_float64(counts_E)
    mean = load_E.mean(-1)
    return _ratio(_namespace(load_E).amax(load_E, -1) - mean, mean)


def gini(counts_E: Counts) -> Counts:
    """Gini coefficient: mean absolute difference of two experts over twice the mean; in [0, 1 - 1/E]."""
    sorted_E = _sorted(_as_float64(counts_E))
    experts = sorted_E.shape[-1]
    rank_E = 2.0 * _namespace(sorted_E).ones_like(sorted_E).cumsum(-1) - experts - 1
    return _ratio((rank_E * sorted_E).sum(-1), experts * sorted_E.sum(-1))


def coefficient_of_variation(counts_E: Counts) -> Counts:
    """Population standard deviation over mean."""
    load_E = _as_float64(counts_E)
    return _ratio(_namespace(load_E).std(load_E, -1, correction=0), load_E.mean(-1))


def entropy(counts_E: Counts) -> Counts:
    """Entropy of the load over log E, in [0, 1]; 1 is even. A single expert is always evenly loaded: 1."""
    load_E = _as_float64(counts_E)
    total = load_E.sum(-1)
    if load_E.shape[-1] == 1:
        return _as_float64(total > 0)
    return _entropy_terms(_ratio(load_E, total[..., None])).sum(-1) / math.log(load_E.shape[-1])


def dead_experts(counts_E: Counts) -> Counts:
    """Experts without any assignment."""
    load_E = _as_float64(counts_E)
    dead = _as_float64((load_E == 0).sum(-1))
    return _namespace(load_E).where(load_E.sum(-1) > 0, dead, 0.0)


def load_metrics(counts_LE: Any) -> dict[str, float]:
    """What to log each step: means over layers, the worst layer's MaxVio, and the dead experts of all layers together.

    Keys: `max_violation`, `max_violation_worst`, `gini`, `cv`, `entropy`, `dead_experts`. Empty for L = 0. The values
    of a tensor leave its device in one copy.
    """
    if counts_LE.shape[0] == 0:
        return {}
    violation_L = max_violation(counts_LE)
    values = {
        "max_violation": violation_L.mean(),
        "max_violation_worst": violation_L.max(),
        "gini": gini(counts_LE).mean(),
        "cv": coefficient_of_variation(counts_LE).mean(),
        "entropy": entropy(counts_LE).mean(),
        "dead_experts": dead_experts(counts_LE).sum(),
    }
    return dict(zip(values, _namespace(counts_LE).stack(list(values.values())).tolist(), strict=True))


def spread(count_E: NDArray[np.int64]) -> dict[str, float | None]:
    """`max_over_mean` and `max_over_min` of one layer's load (None if an expert has no load), and the `variance` of the
    shares, each relative to an even share, so that it does not grow with the tokens."""
    mean = float(count_E.mean())
    if mean == 0:
        return {"max_over_mean": 0.0, "max_over_min": None, "variance": 0.0}
    least = int(count_E.min())
    return {
        "max_over_mean": float(count_E.max()) / mean,
        "max_over_min": float(count_E.max()) / least if least else None,
        "variance": float(np.var(count_E / mean)),
    }


def _namespace(array: Any) -> Any:
    """numpy or torch, whichever made the array: this package imports no torch."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def _as_float64(array: Any) -> Any:
    namespace = _namespace(array)
    return namespace.asarray(array, dtype=namespace.float64)


def _ratio(numerator: Any, denominator: Any) -> Any:
    """0 if the denominator is 0: a row without assignments."""
    where = _namespace(denominator).where
    return where(denominator > 0, numerator / where(denominator > 0, denominator, 1.0), 0.0)


def _sorted(values: Any) -> Any:
    return np.sort(values) if isinstance(values, np.ndarray) else values.sort(dim=-1).values


def _entropy_terms(share: Any) -> Any:
    """-p log p, and 0 for 0."""
    if isinstance(share, np.ndarray):
        return np.where(share > 0, -share * np.log(np.where(share > 0, share, 1.0)), 0.0)
    return _namespace(share).special.entr(share)
