"""Observers of training. `LoadTraceObserver` records the expert load over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from penstock.hooks.contracts import StepRecord
from penstock.traces.trace import RoutingTrace


class LoadTraceObserver:
    """Writes `trace/train.npz` at every checkpoint and at the end; dense models write no trace."""

    def __init__(self, *, run_directory: Path, header: Mapping[str, Any], every: int = 1) -> None:
        self.path = run_directory / "trace" / "train.npz"
        self.header = dict(header)
        self.every = every
        self._steps: list[int] = []
        self._counts: list[np.ndarray] = []
        self._layers: tuple[int, ...] = ()

    def on_resume(self, step: int) -> None:
        if not self.path.exists():
            return
        trace = RoutingTrace.load(self.path)
        kept = [i for i, done in enumerate(trace.header["steps"]) if done <= step]
        self._steps = [trace.header["steps"][i] for i in kept]
        self._counts = [trace.counts_SLE[i] for i in kept]
        self._layers = tuple(trace.header["layers"])

    def on_step(self, record: StepRecord) -> None:
        if record.layers and record.step % self.every == 0:
            self._steps.append(record.step)
            self._counts.append(record.counts_LE)
            self._layers = record.layers

    def on_checkpoint(self, step: int) -> None:
        self.on_end()

    def stage(self, step: int) -> Callable[[], None]:
        """See `StagingObserver`. Counts are never changed, so a copy of the list is enough."""
        steps, counts, layers = list(self._steps), list(self._counts), self._layers
        return lambda: self._write(steps, counts, layers)

    def on_end(self) -> None:
        self._write(self._steps, self._counts, self._layers)

    def _write(self, steps: list[int], counts: list[np.ndarray], layers: tuple[int, ...]) -> None:
        if counts:
            header = {**self.header, "split": "train", "layers": list(layers), "steps": steps}
            RoutingTrace(np.stack(counts), header).save(self.path)
