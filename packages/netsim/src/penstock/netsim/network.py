"""GPUs, directed links, and the links that each message takes: the common form of every topology.

Shape suffixes: G GPUs, L links, F flows, H hops of a route; a route of fewer than H hops is padded with -1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.netsim.port import Port

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

Router = Callable[[Indices, Indices], Indices]
"""Links `link_FH` of the routes from each sender to each receiver, -1 where a route has ended."""

_PAIRS_AT_ONCE = 2**18


@dataclass(frozen=True, slots=True)
class Flows:
    """Messages of one exchange: `bytes_F` > 0 from GPU `source_F` to a different GPU `target_F`."""

    source_F: Indices
    target_F: Indices
    bytes_F: Floats

    @classmethod
    def of(cls, bytes_GG: ArrayLike) -> Flows:
        """From a traffic matrix; the diagonal is not sent. Raises ValueError if it is not square or has negatives."""
        traffic_GG = np.asarray(bytes_GG, dtype=np.float64)
        if traffic_GG.ndim != 2 or traffic_GG.shape[0] != traffic_GG.shape[1] or not traffic_GG.size:
            raise ValueError(f"bytes_GG must be a square matrix, not {traffic_GG.shape}")
        if not (np.isfinite(traffic_GG) & (traffic_GG >= 0)).all():
            raise ValueError("bytes_GG must contain finite bytes >= 0")
        source_F, target_F = np.nonzero(traffic_GG)
        away_F = source_F != target_F
        source_F, target_F = source_F[away_F], target_F[away_F]
        return cls(source_F, target_F, traffic_GG[source_F, target_F])

    def __len__(self) -> int:
        return len(self.bytes_F)


@dataclass(frozen=True, slots=True)
class EvenLoads:
    """How many GPUs' routes to GPU g use link l: routes of `inside_LG` stay in a node, those of `between_LG` do not."""

    inside_LG: Floats
    between_LG: Floats


@dataclass(frozen=True, slots=True)
class Network:
    """A topology for one number of GPUs.

    `capacity_L` bytes/s per link and direction. `inside` and `between` are a GPU's ports to its own node and to other
    nodes: each message starts after their latency, and LogGP serialises messages at their bandwidth.
    """

    node_G: Indices
    capacity_L: Floats
    link_names: tuple[str, ...]
    inside: Port
    between: Port
    route: Router

    @property
    def gpus(self) -> int:
        return len(self.node_G)

    def crosses(self, flows: Flows) -> NDArray[np.bool_]:
        """Which flows leave their node."""
        return self.node_G[flows.source_F] != self.node_G[flows.target_F]

    def start_seconds(self, flows: Flows) -> Floats:
        """`start_F`: seconds before a message's bytes move.

        At each level, the largest message of the exchange determines the protocol, and the GPU with the most peers
        determines the overhead, because a collective is launched as a whole.
        """
        crosses_F = self.crosses(flows)
        start_F = np.zeros(len(flows))
        for port, level_F in ((self.inside, ~crosses_F), (self.between, crosses_F)):
            if level_F.any():
                peers = np.bincount(flows.source_F[level_F], minlength=1).max()
                start_F[level_F] = port.start_seconds(peers, flows.bytes_F[level_F].max())
        return start_F

    def even_loads(self) -> EvenLoads:
        """The load of each link when every GPU sends the same bytes to GPU g."""
        gpus, links = self.gpus, len(self.capacity_L)
        inside, between = np.zeros(links * gpus), np.zeros(links * gpus)
        rows = max(1, _PAIRS_AT_ONCE // gpus)
        for first in range(0, gpus, rows):
            last = min(first + rows, gpus)
            source_F, target_F = (axis.ravel().astype(np.int64) for axis in np.mgrid[first:last, 0:gpus])
            link_FH = self.route(source_F, target_F)
            place_FH = link_FH * gpus + target_F[:, None]
            used_FH = (link_FH >= 0) & (source_F != target_F)[:, None]
            crosses_F1 = (self.node_G[source_F] != self.node_G[target_F])[:, None]
            inside += np.bincount(place_FH[used_FH & ~crosses_F1], minlength=links * gpus)
            between += np.bincount(place_FH[used_FH & crosses_F1], minlength=links * gpus)
        return EvenLoads(inside.reshape(links, gpus), between.reshape(links, gpus))
