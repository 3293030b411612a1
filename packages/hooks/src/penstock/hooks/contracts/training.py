"""What a training run calls and tells: schedules, trackers, observers.

Shape suffixes: L mixture-of-experts layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock.hooks.contracts.tensors import Array


class Schedule(Protocol):
    """Learning-rate factor. `progress` is the trained share of the run in [0, 1]."""

    def __call__(self, progress: float) -> float: ...


class Tracker(Protocol):
    """Sink for metrics. `resume` is called before the first `log` of a resumed run: steps after it are void."""

    def resume(self, step: int) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One finished optimizer step: metrics are plain floats, `counts_LE` an int64 numpy array (L may be 0)."""

    step: int
    tokens_seen: int
    metrics: Mapping[str, float]
    counts_LE: Array
    layers: tuple[int, ...]


class Observer(Protocol):
    """Watches training. `on_resume` says which step the run continues from; records after it are void."""

    def on_resume(self, step: int) -> None: ...

    def on_step(self, record: StepRecord) -> None: ...

    def on_checkpoint(self, step: int) -> None: ...

    def on_end(self) -> None: ...
