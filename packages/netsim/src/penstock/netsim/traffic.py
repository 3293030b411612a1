"""Bytes of an all-to-all from counts of expert assignments.

A trace records the share of the assignments that each expert got, not the GPU of its tokens: tokens are assumed to be
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
        """Total bytes that a GPU sends, including the share of its own experts."""
        return self.tokens_per_gpu * self.k * self.hidden_size * bytes_per_element


def gpu_shares(counts_SR: NDArray[np.floating] | NDArray[np.integer], gpu_R: NDArray[np.int64], gpus: int) -> Floats:
    """`share_SG`: the share of each step's assignments that each GPU's experts got; rows sum to 1.

    Steps without any assignment are left out, so S may shrink.
    """
    if np.array_equal(gpu_R, np.arange(gpus)):
        counts_SG = counts_SR.astype(np.float64)
    else:
        order_R = np.argsort(gpu_R, kind="stable")
        holding, first = np.unique(gpu_R[order_R], return_index=True)
        counts_SG = np.zeros((len(counts_SR), gpus))
        counts_SG[:, holding] = np.add.reduceat(counts_SR[:, order_R], first, axis=-1, dtype=np.float64)
    total_S1 = counts_SG.sum(axis=-1, keepdims=True)
    return counts_SG[total_S1[:, 0] > 0] / total_S1[total_S1[:, 0] > 0]


def bytes_between_gpus(bytes_G: Floats) -> Floats:
    """`bytes_GG` when every GPU sends `bytes_G[g]` to GPU g; bytes that stay on their GPU are not sent."""
    bytes_GG = np.tile(bytes_G, (len(bytes_G), 1))
    np.fill_diagonal(bytes_GG, 0.0)
    return bytes_GG


def token_reach(expert_TK: NDArray[np.int64], gpu_EC: NDArray[np.int64], groups: NDArray[np.int64]) -> Floats:
    """`reach`: the share of tokens that go to each group of GPUs; a token goes to a group at most once.

    `gpu_EC` are the GPUs of each expert's copies, which tokens take in turn; `groups` is the group of each GPU.
    """
    turn_T1 = np.arange(len(expert_TK))[:, None] % gpu_EC.shape[1]
    group_TK = groups[gpu_EC[expert_TK, turn_T1]]
    reached = np.zeros((len(expert_TK), int(groups.max()) + 1), dtype=bool)
    np.put_along_axis(reached, group_TK, True, axis=1)
    return reached.mean(axis=0)


def deduplicated_bytes(
    reach_G: Floats, reach_M: Floats, gpus_per_node: int, all_tokens_bytes: float
) -> tuple[Floats, Floats]:
    """`bytes_GG` when a token crosses to a node once and continues over NVLink to the GPUs that need it there.

    `all_tokens_bytes` is the size of a GPU's tokens, each counted once. A GPU sends a node's share of its tokens to the
    GPU with its own number on that node, which forwards them. Messages inside a node therefore carry the tokens of the
    GPUs with that number on all nodes. Both kinds of messages are in flight at the same time, because chunks are
    pipelined.

    The second matrix is the part of the bytes that crosses between nodes.
    """
    gpus = len(reach_G)
    node_G = np.arange(gpus) // gpus_per_node
    number_G = np.arange(gpus) % gpus_per_node
    same_node_GG = node_G[:, None] == node_G
    size_G = np.bincount(node_G)[node_G]
    crossing_GG = np.where(~same_node_GG & (number_G[:, None] % size_G == number_G), reach_M[node_G], 0.0)
    arriving_G = 1 + (crossing_GG > 0).sum(axis=0)
    bytes_GG = np.where(same_node_GG, arriving_G[:, None] * reach_G, crossing_GG) * all_tokens_bytes
    np.fill_diagonal(bytes_GG, 0.0)
    return bytes_GG, crossing_GG * all_tokens_bytes


def expected_busiest(gpus: ArrayLike, assignments_per_gpu: ArrayLike) -> Floats:
    """Load of the busiest of `gpus` GPUs over the mean when every assignment goes to a random GPU.

    The counts of the GPUs are close to normal variables with variance `assignments_per_gpu` around a common mean. The
    result is 1 plus the expected maximum of `gpus` standard normal variables over the root of that variance. So even a
    perfectly fair router makes some GPUs wait.
    """
    count = np.asarray(gpus, dtype=np.float64)
    return 1 + _expected_maximum(count) / np.sqrt(np.asarray(assignments_per_gpu, dtype=np.float64))


def _expected_maximum(draws: Floats) -> Floats:
    """The expected maximum of n standard normal draws: the integral of 1 - F**n above zero minus F**n below."""
    x = np.linspace(-8, 8, 4001)
    below = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    return np.sum((x > 0) - below ** draws[..., None], axis=-1) * (x[1] - x[0])
