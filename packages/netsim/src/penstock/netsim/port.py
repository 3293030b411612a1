"""Time that one network port of a GPU needs for its share of a collective: the alpha-beta model, in pieces.

The message size decides the protocol. A small message is sent at once (eager); a larger one waits until its receiver is
ready (rendezvous); the largest fill pipelines, which have a setup cost of their own. Each step up adds a fixed time, as
in the latency curves of NCCL and MPI: up to 512 KiB, an H100's all-to-all gains 7 us that bandwidth does not explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.netsim.hardware import Figure, named

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Port:
    """Figures of a port: bytes/s per direction, seconds, and the message sizes at which the protocol changes.

    `latency` is paid once per collective, `peer_overhead` once for every peer after the first. A message above
    `eager_bytes` adds `rendezvous` seconds, one above `bulk_bytes` adds `bulk_setup` seconds more.
    """

    bandwidth: float
    latency: float = 0.0
    peer_overhead: float = 0.0
    eager_bytes: float = inf
    rendezvous: float = 0.0
    bulk_bytes: float = inf
    bulk_setup: float = 0.0

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise ValueError(f"a port's bandwidth must be positive, not {self.bandwidth}")
        if min(self.latency, self.peer_overhead, self.rendezvous, self.bulk_setup) < 0:
            raise ValueError("a port's times must not be negative")

    def seconds(self, busiest_bytes: ArrayLike, peers: ArrayLike = 1, message_bytes: ArrayLike = 0.0) -> Floats:
        """Seconds for a port to move `busiest_bytes` one way, to or from `peers`; the largest message has
        `message_bytes`.

        A port that moves nothing takes no time.
        """
        busiest = np.asarray(busiest_bytes, dtype=np.float64)
        seconds = self.start_seconds(peers, message_bytes) + busiest / self.bandwidth
        return np.where(busiest > 0, seconds, 0.0)

    def start_seconds(self, peers: ArrayLike, message_bytes: ArrayLike) -> Floats:
        """The seconds that do not grow with the bytes."""
        message = np.asarray(message_bytes, dtype=np.float64)
        others = np.maximum(np.asarray(peers, dtype=np.float64) - 1, 0)
        protocol = self.rendezvous * (message > self.eager_bytes) + self.bulk_setup * (message > self.bulk_bytes)
        return self.latency + self.peer_overhead * others + protocol


class NodePorts:
    """`gpus_per_node` GPUs form a node; each has a port to its own node and one to the other nodes.

    Figures that are not given come from the preset `hardware`. Raises `ProblemError` for an unknown preset, and
    ValueError for impossible figures.
    """

    name: str

    def __init__(
        self,
        hardware: str = "h800",
        gpus_per_node: int | None = None,
        inside_bandwidth: float | None = None,
        inside_latency: float | None = None,
        between_bandwidth: float | None = None,
        between_latency: float | None = None,
    ) -> None:
        preset, owner = named(hardware, self.name), type(self).__name__
        self.hardware = hardware
        self.gpus_per_node = preset.gpus_per_node if gpus_per_node is None else gpus_per_node
        if self.gpus_per_node < 1:
            raise ValueError(f"{owner}: gpus_per_node must be positive, not {self.gpus_per_node}")
        try:
            self.inside = Port(
                _given(inside_bandwidth, preset.inside_bandwidth), _given(inside_latency, preset.inside_latency)
            )
            self.between = Port(
                _given(between_bandwidth, preset.between_bandwidth), _given(between_latency, preset.between_latency)
            )
        except ValueError as error:
            raise ValueError(f"{owner}: {error}") from error

    def _nodes(self, gpus: int) -> Indices:
        """The node [G] of each GPU."""
        return np.arange(gpus) // self.gpus_per_node


def _given(value: float | None, preset: Figure) -> float:
    return preset.value if value is None else value
