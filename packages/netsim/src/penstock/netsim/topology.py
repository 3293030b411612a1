"""Time of an all-to-all from the bytes between each pair of GPUs: latency plus bytes over bandwidth, at the worst port.

The model has two ports per GPU: one to the GPUs of its own node, one to all others. It has no contention inside a
switch and no forwarding, and it needs only four figures, which are public for the machines in `hardware`. The README
compares its accuracy with measurements.

Shape suffixes: G GPUs, N all-to-alls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.netsim.network import Network
from penstock.netsim.port import NodePorts
from penstock.netsim.topologies import two_level_network

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AllToAll:
    """One all-to-all: total `seconds`, the time of each GPU's two ports, and the GPU that finishes last."""

    seconds: float
    inside_seconds_G: Floats
    between_seconds_G: Floats
    slowest_gpu: int


class TwoLevel(NodePorts):
    """GPUs `0 .. gpus_per_node - 1` are node 0, the next ones node 1, and so on; the last node may be smaller.

    For GPU g, with bytes sent and received inside its node (the diagonal is free) and between nodes:

        inside(g)  = inside_latency  + max(sent_inside(g),  received_inside(g))  / inside_bandwidth
        between(g) = between_latency + max(sent_between(g), received_between(g)) / between_bandwidth
        seconds    = max over g of max(inside(g), between(g))

    A port that carries no bytes takes no time. Ports are full duplex and work at the same time; messages to several
    peers are in flight together (one latency per collective, not per peer). Bandwidths are in bytes/s, latencies in
    seconds; figures that are not given come from the preset `hardware`.

    The exchange with senders and receivers swapped takes equally long. Source: the alpha-beta model of Hockney (1994),
    with a one-port restriction at each level.
    """

    name = "two-level"

    def all_to_all_seconds(self, bytes_GG: ArrayLike) -> float:
        """Seconds until the last byte has arrived; GPU i sends `bytes_GG[i, j]` bytes to GPU j."""
        return self.all_to_all(bytes_GG).seconds

    def all_to_all(self, bytes_GG: ArrayLike) -> AllToAll:
        """Like `all_to_all_seconds`, with the time of every port; raises ValueError for a matrix that is not square or
        has negative entries."""
        traffic_GG = np.array(bytes_GG, dtype=np.float64)
        if traffic_GG.ndim != 2 or traffic_GG.shape[0] != traffic_GG.shape[1] or not (traffic_GG >= 0).all():
            raise ValueError(f"bytes_GG must be a square matrix of bytes >= 0, not {traffic_GG.shape}")
        if not traffic_GG.size:
            raise ValueError("bytes_GG has no GPUs")
        np.fill_diagonal(traffic_GG, 0.0)
        node_G = self._nodes(len(traffic_GG))
        inside_GG = np.where(node_G[:, None] == node_G, traffic_GG, 0.0)
        between_GG = traffic_GG - inside_GG
        inside_G = self.inside.seconds(np.maximum(inside_GG.sum(axis=1), inside_GG.sum(axis=0)))
        between_G = self.between.seconds(np.maximum(between_GG.sum(axis=1), between_GG.sum(axis=0)))
        worst_G = np.maximum(inside_G, between_G)
        return AllToAll(float(worst_G.max()), inside_G, between_G, int(worst_G.argmax()))

    def network(self, gpus: int) -> Network:
        """The same ports as links, for fidelities that need links."""
        return two_level_network(gpus, self.gpus_per_node, self.inside, self.between)

    def even_sources_seconds(self, bytes_NG: Floats) -> Floats:
        """Seconds [N] of N all-to-alls in each of which every GPU sends `bytes_NG[n, g]` to GPU g.

        Equal to `all_to_all_seconds` of the matrices with these rows, without building them: 256 GPUs and 46,000
        all-to-alls would be 24 GB.
        """
        gpus = bytes_NG.shape[-1]
        size_M = np.bincount(self._nodes(gpus))
        total_NM, least_NM, most_NM = (
            _over_nodes(reduce, bytes_NG, self.gpus_per_node) for reduce in (np.add, np.minimum, np.maximum)
        )
        sent_NM, received_NM = np.where(size_M > 1, total_NM - least_NM, 0.0), most_NM * (size_M - 1)
        inside_N = self.inside.seconds(np.maximum(sent_NM.max(axis=-1), received_NM.max(axis=-1)))
        sent_NM, received_NM = total_NM.sum(axis=-1, keepdims=True) - total_NM, most_NM * (gpus - size_M)
        alone_NM = sent_NM if len(size_M) > 1 else np.zeros_like(sent_NM)
        between_N = self.between.seconds(np.maximum(alone_NM.max(axis=-1), received_NM.max(axis=-1)))
        return np.maximum(inside_N, between_N)


def _over_nodes(reduce: np.ufunc, bytes_NG: Floats, size: int) -> Floats:
    """Sum, minimum or maximum over each node's GPUs, for all nodes at once: five times as fast as `reduceat`."""
    whole = bytes_NG.shape[1] // size * size
    parts_NMG = bytes_NG[:, :whole].reshape(len(bytes_NG), -1, size)
    found_NM = parts_NMG[..., 0].copy()
    for gpu in range(1, size):
        reduce(found_NM, parts_NMG[..., gpu], out=found_NM)
    if whole == bytes_NG.shape[1]:
        return found_NM
    return np.column_stack([found_NM, reduce.reduce(bytes_NG[:, whole:], axis=1)])
