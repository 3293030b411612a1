"""Bytes of an all-to-all from counts of expert assignments.

A trace says which share of the assignments each expert got, not which GPU its tokens stood on: tokens are taken as
spread evenly over the GPUs. A token that goes to two experts on one GPU is sent twice (no deduplication), as in
DeepEP's low-latency kernels.

Shape suffixes: S steps, R expert copies, G GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Batch:
    """What every GPU routes in one layer: `tokens_per_gpu` tokens of `hidden_size` elements to `k` experts each."""

    tokens_per_gpu: int
    k: int
    hidden_size: int

    def bytes_per_gpu(self, bytes_per_element: float) -> float:
        """What a GPU sends in all, its own experts' share included."""
        return self.tokens_per_gpu * self.k * self.hidden_size * bytes_per_element


def gpu_shares(counts_SR: NDArray[np.floating] | NDArray[np.integer], gpu_R: NDArray[np.int64], gpus: int) -> Floats:
    """`share_SG`: the share of each step's assignments that each GPU's experts got; rows sum to 1.

    Steps without any assignment are left out, so S may shrink.
    """
    holds_RG = np.zeros((len(gpu_R), gpus))
    holds_RG[np.arange(len(gpu_R)), gpu_R] = 1.0
    counts_SG = counts_SR.astype(np.float64) @ holds_RG
    total_S1 = counts_SG.sum(axis=-1, keepdims=True)
    return counts_SG[total_S1[:, 0] > 0] / total_S1[total_S1[:, 0] > 0]


def bytes_between_gpus(bytes_G: Floats) -> Floats:
    """`bytes_GG` when every GPU sends `bytes_G[g]` to GPU g; what stays at home is not sent."""
    bytes_GG = np.tile(bytes_G, (len(bytes_G), 1))
    np.fill_diagonal(bytes_GG, 0.0)
    return bytes_GG


def expected_busiest(gpus: ArrayLike, assignments_per_gpu: ArrayLike) -> Floats:
    """What the busiest of `gpus` GPUs gets, over the mean, when every assignment goes to a GPU chosen at random.

    The counts of the GPUs are close to normal variables with variance `assignments_per_gpu`, less their common mean,
    which the maximum does not feel: 1 plus the expected maximum of `gpus` standard normal variables over the root of
    that variance. Even a perfectly fair router makes someone wait.
    """
    count = np.asarray(gpus, dtype=np.float64)
    return 1 + _expected_maximum(count) / np.sqrt(np.asarray(assignments_per_gpu, dtype=np.float64))


def _expected_maximum(draws: Floats) -> Floats:
    """Of so many standard normal variables: the integral of 1 - F**n above zero minus that of F**n below."""
    x = np.linspace(-8, 8, 4001)
    below = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    return np.sum((x > 0) - below ** draws[..., None], axis=-1) * (x[1] - x[0])
