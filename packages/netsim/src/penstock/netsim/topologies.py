"""Networks described by links: each topology defines, for any number of GPUs, the links and the routes of messages.

Figures that are not given come from a hardware preset; bandwidths are bytes/s per direction, latencies seconds. GPUs
`0 .. gpus_per_node - 1` are node 0, and so on.

Shape suffixes: G GPUs, L links, F flows, H hops.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from penstock.hooks.problems import Problem, ProblemError
from penstock.netsim.fidelity import alpha_beta, even_alpha_beta_seconds
from penstock.netsim.network import Floats, Flows, Indices, Network
from penstock.netsim.port import NodePorts, Port

MOST_ROUTED_GPUS = 2048
"""Routes between all pairs of 2,048 GPUs take about 200 MB; twice as many GPUs take four times that."""


_AS_TWO_LEVEL = ", so its size does not matter and the prediction equals that of two-level."


def _gpus(counts: Sequence[int]) -> str:
    """
    >>> _gpus([8, 16, 32])
    '8, 16 and 32 GPUs'
    """
    return " and ".join(filter(None, [", ".join(map(str, counts[:-1])), str(counts[-1])])) + " GPUs"


class LinkTopology(NodePorts, ABC):
    """A topology described by its links, with the ports of a hardware preset."""

    def __init__(self, **ports: Any) -> None:
        super().__init__(**ports)
        self._network = lru_cache(maxsize=4)(self._build)
        self._even_loads = lru_cache(maxsize=2)(lambda gpus: self.network(gpus).even_loads())

    def network(self, gpus: int) -> Network:
        """The links among `gpus` GPUs; the last node may be smaller."""
        return self._network(gpus)

    @abstractmethod
    def _build(self, gpus: int) -> Network: ...

    def all_to_all_seconds(self, bytes_GG: ArrayLike) -> float:
        """Seconds until the last byte has arrived, by the busiest link (alpha-beta)."""
        flows = Flows.of(bytes_GG)
        return alpha_beta(self.network(len(np.asarray(bytes_GG))), flows).seconds

    def even_sources_seconds(self, bytes_NG: Floats) -> Floats:
        """Seconds [N] of N exchanges in each of which every GPU sends `bytes_NG[n, g]` to GPU g (alpha-beta)."""
        gpus = bytes_NG.shape[-1]
        if gpus > MOST_ROUTED_GPUS:
            what = f"{gpus} GPUs are too many for a topology that stores routes"
            raise ProblemError(
                Problem("too-many-gpus", what, self.name, f"use two-level above {MOST_ROUTED_GPUS} GPUs")
            )
        return even_alpha_beta_seconds(self.network(gpus), self._even_loads(gpus), bytes_NG)


class SingleNode(LinkTopology):
    """GPUs behind one switch (NVLink), or on PCIe: switches of `gpus_per_switch` GPUs joined by one bridge of the host.

    Links: a port out and in for every GPU, and the bridge, which messages between switches share in both directions.
    More GPUs than the preset's node has form one larger node with the same ports.
    """

    name = "single-node"

    def __init__(self, *, gpus_per_switch: int | None = None, bridge_bandwidth: float | None = None, **ports: Any):
        super().__init__(**ports)
        if (gpus_per_switch is None) != (bridge_bandwidth is None):
            what = "gpus_per_switch and bridge_bandwidth must be set together"
            raise ProblemError(Problem("bad-topology", what, self.name, "set both for PCIe, neither for NVLink"))
        self.gpus_per_switch = gpus_per_switch
        self.bridge_bandwidth = bridge_bandwidth

    def _build(self, gpus: int) -> Network:
        capacity_L = np.full(2 * gpus, self.inside.bandwidth)
        names = [*_names("out", gpus), *_names("in", gpus)]
        if self.bridge_bandwidth is not None:
            capacity_L = np.append(capacity_L, self.bridge_bandwidth)
            names.append("bridge")
        switch_G = np.arange(gpus) // (self.gpus_per_switch or gpus)

        def route(source_F: Indices, target_F: Indices) -> Indices:
            apart_F = switch_G[source_F] != switch_G[target_F]
            return np.stack([source_F, gpus + target_F, np.where(apart_F, 2 * gpus, -1)], axis=1)

        return Network(np.zeros(gpus, dtype=np.int64), capacity_L, tuple(names), self.inside, self.between, route)


class RailOptimised(LinkTopology):
    """GPU number r of every node is connected to switch (rail) r. Rails are not connected to each other.

    A message to another rail first crosses NVLink to the GPU of its own node that is on the receiver's rail, as in NCCL
    (PXN), so it uses that GPU's ports too.
    """

    name = "rail-optimised"

    def _build(self, gpus: int) -> Network:
        capacity_L = np.repeat([self.inside.bandwidth, self.between.bandwidth], 2 * gpus)
        names = [name for kind in ("nvlink out", "nvlink in", "rail out", "rail in") for name in _names(kind, gpus)]
        node_G, size = self._nodes(gpus), self.gpus_per_node
        _whole_nodes(self.name, gpus, size)

        def route(source_F: Indices, target_F: Indices) -> Indices:
            here_F = node_G[source_F] == node_G[target_F]
            via_F = np.where(here_F, target_F, node_G[source_F] * size + target_F % size)
            moves_F = via_F != source_F
            return np.stack(
                [
                    np.where(moves_F, source_F, -1),
                    np.where(moves_F, gpus + via_F, -1),
                    np.where(here_F, -1, 2 * gpus + via_F),
                    np.where(here_F, -1, 3 * gpus + target_F),
                ],
                axis=1,
            )

        return Network(node_G, capacity_L, tuple(names), self.inside, self.between, route)


class FatTree(LinkTopology):
    """Leaf switches of `nodes_per_leaf` nodes under a core that never blocks.

    A leaf's link to the core has the total bandwidth of its nodes' ports divided by `oversubscription` (1: full
    bisection).
    """

    name = "fat-tree"

    def __init__(self, *, nodes_per_leaf: int = 4, oversubscription: float = 1.0, **ports: Any) -> None:
        super().__init__(**ports)
        if nodes_per_leaf < 1 or not oversubscription > 0:
            raise ValueError("fat-tree: nodes_per_leaf and oversubscription must be positive")
        self.nodes_per_leaf = nodes_per_leaf
        self.oversubscription = oversubscription

    def remarks(self, gpus: Sequence[int]) -> list[str]:
        """At which numbers of GPUs all nodes are under one leaf switch."""
        inside = [count for count in gpus if count <= self.nodes_per_leaf * self.gpus_per_node]
        where = "are under one leaf switch: the core is not used"
        return [f"With {_gpus(inside)} all nodes {where}{_AS_TWO_LEVEL}"] if inside else []

    def _build(self, gpus: int) -> Network:
        node_G = self._nodes(gpus)
        leaf_G = node_G // self.nodes_per_leaf
        leaves = int(leaf_G[-1]) + 1
        uplink = self.nodes_per_leaf * self.gpus_per_node * self.between.bandwidth / self.oversubscription
        capacity_L = np.concatenate([_ports(self, gpus), np.full(2 * leaves, uplink)])
        names = (*_port_names(gpus), *_names("leaf up", leaves), *_names("leaf down", leaves))

        def route(source_F: Indices, target_F: Indices) -> Indices:
            port_FH, here_F = _port_route(node_G, source_F, target_F)
            apart_F = ~here_F & (leaf_G[source_F] != leaf_G[target_F])
            up_F = np.where(apart_F, 4 * gpus + leaf_G[source_F], -1)
            down_F = np.where(apart_F, 4 * gpus + leaves + leaf_G[target_F], -1)
            return np.column_stack([port_FH, up_F, down_F])

        return Network(node_G, capacity_L, names, self.inside, self.between, route)


class Dragonfly(LinkTopology):
    """Groups of `nodes_per_group` nodes, fully connected inside, with one link per direction between each pair.

    A group's links to other groups have together the bandwidth of its ports divided by `taper`. Routes are minimal: one
    global link.
    """

    name = "dragonfly"

    def __init__(self, *, nodes_per_group: int = 4, taper: float = 1.0, **ports: Any) -> None:
        super().__init__(**ports)
        if nodes_per_group < 1 or not taper > 0:
            raise ValueError("dragonfly: nodes_per_group and taper must be positive")
        self.nodes_per_group = nodes_per_group
        self.taper = taper

    def remarks(self, gpus: Sequence[int]) -> list[str]:
        """At which numbers of GPUs all nodes are in one group."""
        inside = [count for count in gpus if count <= self.nodes_per_group * self.gpus_per_node]
        where = "are in one group: no global link is used"
        return [f"With {_gpus(inside)} all nodes {where}{_AS_TWO_LEVEL}"] if inside else []

    def _build(self, gpus: int) -> Network:
        node_G = self._nodes(gpus)
        group_G = node_G // self.nodes_per_group
        groups = int(group_G[-1]) + 1
        together = self.nodes_per_group * self.gpus_per_node * self.between.bandwidth / self.taper
        capacity_L = np.concatenate([_ports(self, gpus), np.full(groups**2, together / max(groups - 1, 1))])
        names = (*_port_names(gpus), *(f"group {a} to {b}" for a in range(groups) for b in range(groups)))

        def route(source_F: Indices, target_F: Indices) -> Indices:
            port_FH, here_F = _port_route(node_G, source_F, target_F)
            first_F, last_F = group_G[source_F], group_G[target_F]
            link_F = np.where(~here_F & (first_F != last_F), 4 * gpus + first_F * groups + last_F, -1)
            return np.column_stack([port_FH, link_F])

        return Network(node_G, capacity_L, names, self.inside, self.between, route)


class Torus(LinkTopology):
    """A grid of GPUs whose opposite edges are joined; every GPU has one link to each neighbour, at port bandwidth.

    `dimensions` are the sides of the grid; by default two sides that are as equal as the number of GPUs allows.
    Messages travel along one dimension after the other, the shorter way around.
    """

    name = "torus"

    def __init__(self, *, dimensions: Sequence[int] | None = None, **ports: Any) -> None:
        super().__init__(**{**ports, "gpus_per_node": 1})
        self.dimensions = None if dimensions is None else tuple(dimensions)

    def _sides(self, gpus: int) -> tuple[int, ...]:
        if self.dimensions is None:
            side = next(side for side in range(math.isqrt(gpus), 0, -1) if gpus % side == 0)
            return (side, gpus // side)
        if math.prod(self.dimensions) != gpus:
            what = f"a torus of {' x '.join(map(str, self.dimensions))} does not have {gpus} GPUs"
            raise ProblemError(Problem("bad-topology", what, self.name, f"use dimensions whose product is {gpus}"))
        return self.dimensions

    def _build(self, gpus: int) -> Network:
        sides = self._sides(gpus)
        axes = range(len(sides))
        capacity_L = np.full(2 * len(sides) * gpus, self.between.bandwidth)
        names = [
            f"{way} {gpu} along {axis}" for axis in axes for way in ("on from", "back from") for gpu in range(gpus)
        ]
        port = Port(self.between.bandwidth * 2 * sum(side > 1 for side in sides) or 1.0, self.between.latency)

        def route(source_F: Indices, target_F: Indices) -> Indices:
            here = [axis_F.copy() for axis_F in np.unravel_index(source_F, sides)]
            there = np.unravel_index(target_F, sides)
            hops: list[Indices] = []
            for axis in axes:
                ahead_F = (there[axis] - here[axis]) % sides[axis]
                on_F = ahead_F <= sides[axis] - ahead_F
                left_F = np.where(on_F, ahead_F, sides[axis] - ahead_F)
                for _ in range(sides[axis] // 2):
                    place_F = np.ravel_multi_index(tuple(here), sides)
                    link_F = (2 * axis + ~on_F) * gpus + place_F
                    hops.append(np.where(left_F > 0, link_F, -1))
                    here[axis] = np.where(left_F > 0, (here[axis] + np.where(on_F, 1, -1)) % sides[axis], here[axis])
                    left_F = left_F - 1
            return np.stack(hops, axis=1) if hops else np.full((len(source_F), 1), -1)

        return Network(np.arange(gpus), capacity_L, tuple(names), self.inside, port, route)


class Ring(Torus):
    """GPUs in a circle, each connected to two neighbours."""

    name = "ring"

    def __init__(self, **ports: Any) -> None:
        super().__init__(dimensions=None, **ports)

    def _sides(self, gpus: int) -> tuple[int, ...]:
        return (gpus,)


class Link(Protocol):
    """A link as `Graph` reads it: two ends, and bytes/s in each direction."""

    @property
    def between(self) -> Sequence[int | str]: ...

    @property
    def bandwidth(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Cable:
    """A link between two GPUs or switches, in both directions."""

    between: tuple[int | str, int | str]
    bandwidth: float


class Graph(LinkTopology):
    """Your own network, link by link; numbers are GPUs, words are switches.

    Messages take the route with the fewest links; among equals, the first listed. Every pair of GPUs must be connected.
    `gpus_per_node` is 1 by default, because most such graphs have hosts rather than nodes with NVLink.
    """

    name = "graph"

    def __init__(self, *, links: Sequence[Link], gpus_per_node: int | None = None, **ports: Any) -> None:
        super().__init__(**ports, gpus_per_node=gpus_per_node or 1)
        self.ends: list[tuple[str, str]] = []
        self.bandwidths: list[float] = []
        for link in links:
            first, last = map(str, link.between)
            self.ends += [(first, last), (last, first)]
            self.bandwidths += [link.bandwidth] * 2
        if not self.bandwidths or min(self.bandwidths) <= 0:
            what = "a link without bandwidth" if self.bandwidths else "a network without links"
            raise ProblemError(Problem("bad-topology", what, self.name, "give each link a positive bandwidth"))

    def _build(self, gpus: int) -> Network:
        paths = {source: self._paths(str(source)) for source in range(gpus)}
        cut = [(a, b) for a in range(gpus) for b in range(gpus) if str(b) not in paths[a]]
        if cut:
            what = f"GPU {cut[0][0]} cannot reach GPU {cut[0][1]}"
            raise ProblemError(Problem("disconnected-topology", what, self.name, "add the missing links"))
        longest = max(len(paths[a][str(b)]) for a in range(gpus) for b in range(gpus))
        link_GGH = np.full((gpus, gpus, max(longest, 1)), -1)
        for a in range(gpus):
            for b in range(gpus):
                link_GGH[a, b, : len(paths[a][str(b)])] = paths[a][str(b)]

        def route(source_F: Indices, target_F: Indices) -> Indices:
            return link_GGH[source_F, target_F]

        names = tuple(f"{first} to {last}" for first, last in self.ends)
        return Network(self._nodes(gpus), np.array(self.bandwidths), names, self.inside, self.between, route)

    def _paths(self, source: str) -> dict[str, list[int]]:
        """The links to each GPU or switch that can be reached."""
        onward: dict[str, list[tuple[int, str]]] = {}
        for link, (first, last) in enumerate(self.ends):
            onward.setdefault(first, []).append((link, last))
        paths: dict[str, list[int]] = {source: []}
        queue = deque([source])
        while queue:
            place = queue.popleft()
            for link, beyond in onward.get(place, []):
                if beyond not in paths:
                    paths[beyond] = [*paths[place], link]
                    queue.append(beyond)
        return paths


def two_level_network(gpus: int, gpus_per_node: int, inside: Port, between: Port) -> Network:
    """NVLink ports and network ports without contention in between: the links of `TwoLevel`."""
    node_G = np.arange(gpus) // gpus_per_node
    capacity_L = np.repeat([inside.bandwidth, between.bandwidth], 2 * gpus)

    def route(source_F: Indices, target_F: Indices) -> Indices:
        return _port_route(node_G, source_F, target_F)[0]

    return Network(node_G, capacity_L, _port_names(gpus), inside, between, route)


def _ports(topology: LinkTopology, gpus: int) -> Floats:
    return np.repeat([topology.inside.bandwidth, topology.between.bandwidth], 2 * gpus)


def _port_names(gpus: int) -> tuple[str, ...]:
    return tuple(name for kind in ("nvlink out", "nvlink in", "port out", "port in") for name in _names(kind, gpus))


def _port_route(node_G: Indices, source_F: Indices, target_F: Indices) -> tuple[Indices, Any]:
    """The sender's and the receiver's link at the level of each flow, and which flows stay in their node."""
    gpus = len(node_G)
    here_F = node_G[source_F] == node_G[target_F]
    level_F = np.where(here_F, 0, 2 * gpus)
    return np.stack([level_F + source_F, level_F + gpus + target_F], axis=1), here_F


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind} {number}" for number in range(count)]


def _whole_nodes(name: str, gpus: int, size: int) -> None:
    if gpus > size and gpus % size:
        what = f"{gpus} GPUs do not fill whole nodes of {size}"
        raise ProblemError(Problem("bad-topology", what, name, f"use a multiple of {size} GPUs"))
