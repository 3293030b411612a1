"""Networks, and the placement of experts on them.

Shape suffixes: G GPUs, E experts.
"""

from __future__ import annotations

from typing import Protocol

from penstock.hooks.contracts.tensors import Array


class Placement(Protocol):
    """Chooses the GPU of each expert: `load_E` (any non-negative weights) to `gpu_E` int64 in [0, gpus)."""

    def place(self, load_E: Array, gpus: int) -> Array: ...


class Topology(Protocol):
    """A network. GPU i sends `bytes_GG[i, j]` bytes to GPU j; the result is the seconds until the last byte arrives."""

    gpus_per_node: int

    def all_to_all_seconds(self, bytes_GG: Array) -> float: ...
