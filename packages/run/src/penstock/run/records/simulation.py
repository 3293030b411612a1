"""Predictions for a network: `simulation.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from penstock.run.records.record import ABSENT, Record


@dataclass(frozen=True, slots=True)
class StepSeconds(Record):
    """Seconds of all exchanges in a step, over `steps` steps; `p99` needs 100 of them."""

    mean: float
    p50: float
    p99: float | None
    max: float
    steps: int | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class StragglingGpu(Record):
    """A GPU, the share of exchanges in which it receives the most bytes, and how many times the mean that is."""

    gpu: int
    share: float
    load: float


@dataclass(frozen=True, slots=True)
class NetworkRow(Record):
    """Predicted expert-parallel exchange at one number of GPUs.

    `balanced_seconds` is the exchange with evenly loaded experts, and `slowdown` is the mean over it. `load` is what
    each GPU receives, where 1 is the mean. `p99_seconds` needs 100 `exchanges`. `step_quantiles` are seconds per step
    at 0, 1, .. 100 %, empty for fewer than 100 steps. `copies` is the number of expert copies on all GPUs together.
    """

    gpus: int
    mean_seconds: float
    nodes: int | None = None
    dispatch_seconds: float | None = None
    combine_seconds: float | None = None
    p50_seconds: float | None = None
    p99_seconds: float | None = None
    max_seconds: float | None = None
    step_seconds: StepSeconds | None = None
    step_quantiles: list[float] = field(default_factory=lambda: list[float]())
    balanced_seconds: float | None = None
    slowdown: float | None = None
    bytes_between_nodes: float | None = None
    worst_layer: int | None = None
    worst_layer_slowdown: float | None = None
    load: list[float] = field(default_factory=lambda: list[float]())
    stragglers: list[StragglingGpu] = field(default_factory=lambda: list[StragglingGpu]())
    exchanges: int | None = field(default=None, metadata=ABSENT)
    copies: int | None = field(default=None, metadata=ABSENT)

    @property
    def p99(self) -> float | None:
        """`p99_seconds`, if it is known to be of enough exchanges: earlier versions wrote it for any number."""
        return self.p99_seconds if self.exchanges is not None else None


@dataclass(frozen=True, slots=True)
class Simulation(Record):
    """What `penstock simulate` predicts for one network, placement of experts and fidelity, at several numbers of GPUs.

    `exported` and `report` are the files that it wrote. `sweep` holds one simulation for each value of one setting,
    with the `value` as given on the command line. `notes` are what a reader of the figures must know.
    """

    topology: str = ""
    hardware: str | None = None
    placement: str = ""
    fidelity: str = ""
    deduplicate: bool = False
    trace: str = ""
    hidden_size: int | None = None
    tokens_per_gpu: int | None = None
    k: int | None = None
    rows: list[NetworkRow] = field(default_factory=lambda: list[NetworkRow]())
    experts: int | None = field(default=None, metadata=ABSENT)
    notes: list[str] = field(default_factory=lambda: list[str]())
    value: Any = field(default=None, metadata=ABSENT)
    sweep: NetworkSweep | None = field(default=None, metadata=ABSENT)
    exported: list[str] | None = field(default=None, metadata=ABSENT)
    report: str | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class NetworkSweep(Record):
    """The setting that was swept, and a simulation for each of its values."""

    name: str
    cases: list[Simulation]
