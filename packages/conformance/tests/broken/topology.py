"""Topologies that break one law each."""

from __future__ import annotations

from typing import Any

import numpy as np

from broken.described import described


class Good:
    """Each pair of GPUs has a link of its own, slower between nodes, and a GPU a port that is as fast as ten links."""

    gpus_per_node = 4
    inside, between, port = 1e-9, 4e-9, 1e-10

    def all_to_all_seconds(self, bytes_GG: Any) -> float:
        return self.seconds(self.checked(bytes_GG))

    def checked(self, bytes_GG: Any) -> np.ndarray:
        moved_GG = np.array(bytes_GG, dtype=np.float64)
        if moved_GG.ndim != 2 or moved_GG.shape[0] != moved_GG.shape[1] or not (moved_GG >= 0).all():
            raise ValueError("not a square matrix of bytes")
        np.fill_diagonal(moved_GG, 0.0)
        return moved_GG

    def seconds(self, moved_GG: np.ndarray) -> float:
        sent = max(moved_GG.sum(axis=0).max(), moved_GG.sum(axis=1).max()) * self.port
        return float(max(sent, (moved_GG * self.per_byte(len(moved_GG))).max()))

    def per_byte(self, gpus: int) -> np.ndarray:
        node_G = np.arange(gpus) // self.gpus_per_node
        return np.where(node_G[:, None] == node_G, self.inside, self.between)


class FractionalNode(Good):
    gpus_per_node = 4.5


class Undefined(Good):
    """Has no answer for one GPU."""

    def seconds(self, moved_GG: np.ndarray) -> float:
        return super().seconds(moved_GG) if len(moved_GG) > 1 else float("nan")


class Ageing(Good):
    calls = 0

    def seconds(self, moved_GG: np.ndarray) -> float:
        self.calls += 1
        return super().seconds(moved_GG) * (1 + self.calls / 100)


class Clearing(Good):
    def checked(self, bytes_GG: Any) -> np.ndarray:
        moved_GG = super().checked(bytes_GG)
        np.fill_diagonal(bytes_GG, 0)
        return moved_GG


class Narrow(Good):
    def checked(self, bytes_GG: Any) -> np.ndarray:
        bytes_GG = np.asarray(bytes_GG)
        return super().checked(bytes_GG.astype(np.uint32) if bytes_GG.dtype == np.int64 else bytes_GG)


class CountingDiagonal(Good):
    def all_to_all_seconds(self, bytes_GG: Any) -> float:
        return super().all_to_all_seconds(bytes_GG) + float(np.trace(np.asarray(bytes_GG))) * self.inside


class TimingOut(Good):
    def seconds(self, moved_GG: np.ndarray) -> float:
        return super().seconds(moved_GG) if moved_GG.any() else 1.0


class Endless(Good):
    """Counts latencies alone."""

    def seconds(self, moved_GG: np.ndarray) -> float:
        return 1e-6 if moved_GG.any() else 0.0


class Collapsing(Good):
    def seconds(self, moved_GG: np.ndarray) -> float:
        return super().seconds(moved_GG) ** 2


class Upside(Good):
    inside, between = Good.between, Good.inside


class WholeNodes(Good):
    def per_byte(self, gpus: int) -> np.ndarray:
        if gpus > 1 and gpus % self.gpus_per_node:
            raise IndexError("node out of range")
        return super().per_byte(gpus)


class Trusting(Good):
    def checked(self, bytes_GG: Any) -> np.ndarray:
        moved_GG = np.array(bytes_GG, dtype=np.float64)
        if moved_GG.shape[0] != moved_GG.shape[1]:
            raise ValueError("not square")
        np.fill_diagonal(moved_GG, 0.0)
        return moved_GG


class Averaging(Good):
    """The mean over the messages: a small one more makes it less."""

    def seconds(self, moved_GG: np.ndarray) -> float:
        costs = (moved_GG * self.per_byte(len(moved_GG)))[moved_GG > 0]
        return float(costs.mean()) if costs.size else 0.0


class Congested(Good):
    def seconds(self, moved_GG: np.ndarray) -> float:
        return super().seconds(moved_GG) * float(np.count_nonzero(moved_GG)) ** 2


class FirstIsFast(Good):
    def per_byte(self, gpus: int) -> np.ndarray:
        per_byte = super().per_byte(gpus)
        per_byte[0, 1:2] /= 2
        return per_byte


ALL = frozenset({"monotone", "subadditive", "interchangeable"})
of = described("topology", "A topology that breaks one law", ALL)
GOOD = of(Good)
BROKEN = {
    "topology/a-node-has-gpus": of(FractionalNode),
    "topology/seconds-are-finite-and-not-negative": of(Undefined),
    "topology/seconds-depend-on-the-bytes-alone": of(Ageing),
    "topology/the-bytes-are-left-alone": of(Clearing),
    "topology/whole-bytes-are-bytes": of(Narrow),
    "topology/what-a-gpu-keeps-takes-no-time": of(CountingDiagonal),
    "topology/nothing-to-send-is-done-at-once": of(TimingOut),
    "topology/bytes-take-time": of(Endless),
    "topology/twice-the-bytes-take-once-to-twice-the-time": of(Collapsing),
    "topology/another-node-is-no-nearer-than-a-neighbour": of(Upside),
    "topology/a-node-that-is-not-full-is-answered-or-refused": of(WholeNodes),
    "topology/impossible-bytes-are-refused": of(Trusting),
    "topology/more-bytes-never-end-earlier": of(Averaging),
    "topology/two-exchanges-at-once-are-not-slower": of(Congested),
    "topology/gpus-of-a-node-are-interchangeable": of(FirstIsFast),
}
