"""Placements that break one law each."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from broken.described import described


class Good:
    """The heaviest expert first, each on the GPU with the least load that has a slot."""

    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        self.check(len(load_E), gpus)
        load_E = np.array(load_E, dtype=np.float64)
        gpu_E = np.zeros(len(load_E), dtype=np.int64)
        load_G, free_G = np.zeros(gpus), np.full(gpus, len(load_E) // gpus)
        for expert in self.order(load_E):
            gpu = int(np.argmin(np.where(free_G > 0, load_G, np.inf)))
            gpu_E[expert] = gpu
            load_G[gpu] += load_E[expert]
            free_G[gpu] -= 1
        return gpu_E

    def order(self, load_E: np.ndarray) -> np.ndarray:
        return np.argsort(-load_E, kind="stable")

    def check(self, experts: int, gpus: int) -> None:
        if gpus < 1 or experts % gpus:
            raise ValueError("the experts do not divide by the GPUs")


class Listing(Good):
    def place(self, load_E: Any, gpus: int) -> Any:
        return super().place(load_E, gpus).tolist()


class Narrow(Good):
    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        return super().place(load_E, gpus).astype(np.int32)


class FromOne(Good):
    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        return super().place(load_E, gpus) + 1


class TwoAtLeast(Good):
    def check(self, experts: int, gpus: int) -> None:
        if gpus < 2 or experts % gpus:
            raise ValueError("placing needs two GPUs")


class Rotating(Good):
    made = itertools.count()

    def __init__(self) -> None:
        self.first = next(self.made)

    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        return (super().place(load_E, gpus) + self.first) % max(gpus, 1)


class Sorting(Good):
    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        gpu_E = super().place(load_E, gpus)
        load_E.sort()
        return gpu_E


class Caching(Good):
    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], np.ndarray] = {}

    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        key = (gpus, *np.asarray(load_E).tolist())
        if key not in self.known:
            self.known[key] = super().place(load_E, gpus)
        return self.known[key]


class Shares(Good):
    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        load_E = np.array(load_E, dtype=np.float64)
        return super().place(load_E / load_E.sum(), gpus)


class Thousands(Good):
    """Takes loads below one thousand for equal."""

    def order(self, load_E: np.ndarray) -> np.ndarray:
        return np.argsort(-np.maximum(load_E, 1000.0), kind="stable")


class Whole(Good):
    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        if np.asarray(load_E).dtype == np.int64:
            raise TypeError("cannot cast from float64 to int64")
        return super().place(load_E, gpus)


class Dividing(Good):
    def check(self, experts: int, gpus: int) -> None:
        if gpus < 1:
            raise ValueError("there is no GPU")
        if experts % gpus:
            raise IndexError("GPU out of range")


class Nowhere(Good):
    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        return super().place(load_E, gpus) if gpus > 0 else np.zeros(len(load_E), dtype=np.int64)


class Crowding(Good):
    """Fills GPUs by load alone."""

    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        self.check(len(load_E), gpus)
        load_E = np.array(load_E, dtype=np.float64)
        gpu_E, load_G = np.zeros(len(load_E), dtype=np.int64), np.zeros(gpus)
        for expert in self.order(load_E):
            gpu_E[expert] = np.argmin(load_G)
            load_G[gpu_E[expert]] += load_E[expert]
        return gpu_E


class InOrder(Good):
    def place(self, load_E: Any, gpus: int) -> np.ndarray:
        self.check(len(load_E), gpus)
        return np.arange(len(load_E)) // (len(load_E) // gpus)


of = described("placement", "A placement that breaks one law", frozenset({"equal-slots", "load-aware"}))
GOOD = of(Good)
BROKEN = {
    "placement/every-expert-has-a-gpu": of(Listing),
    "placement/gpus-are-numbered-in-64-bits": of(Narrow),
    "placement/every-gpu-exists": of(FromOne),
    "placement/one-gpu-holds-all": of(TwoAtLeast),
    "placement/the-choice-depends-on-the-load-alone": of(Rotating),
    "placement/the-load-is-left-alone": of(Sorting),
    "placement/the-answer-belongs-to-the-caller": of(Caching),
    "placement/experts-without-load-are-placed": of(Shares),
    "placement/the-unit-of-the-load-plays-no-part": of(Thousands),
    "placement/the-type-of-the-load-plays-no-part": of(Whole),
    "placement/what-does-not-divide-is-placed-or-refused": of(Dividing),
    "placement/no-gpu-is-no-place": of(Nowhere),
    "placement/every-gpu-gets-the-same-number": of(Crowding),
    "placement/a-skewed-load-is-spread": of(InOrder),
}
