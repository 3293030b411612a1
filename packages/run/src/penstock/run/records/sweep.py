"""What a sweep measures for each run and each cell: `sweep.json` in a run and in a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.run.records.record import ABSENT, Record


@dataclass(frozen=True, slots=True)
class RunFigures(Record):
    """The figures of a run that a sweep compares; a dense model has no balance figures.

    `text` is the SHA-256 of the held-out text and `text_bytes` its size; `machine` trained the run.
    """

    bits_per_byte: float
    tokens: int
    seconds: float
    active_parameters: int
    flops: int
    max_violation: float | None = field(default=None, metadata=ABSENT)
    max_violation_worst: float | None = field(default=None, metadata=ABSENT)
    dead_experts: float | None = field(default=None, metadata=ABSENT)
    text: str | None = field(default=None, metadata=ABSENT)
    text_bytes: int | None = field(default=None, metadata=ABSENT)
    machine: str | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class SweptRun(RunFigures):
    """The figures of one run, with its cell, seed and directory."""

    cell: str = ""
    seed: int = 0
    run: str = ""


@dataclass(frozen=True, slots=True)
class Difference(Record):
    """Mean of the differences to the baseline over `pairs` of runs with one seed and one held-out text, and the half
    width of its interval, None if there are too few pairs for one."""

    mean: float
    half_width: float | None
    pairs: int | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class MissingRun(Record):
    """A run of the grid without figures, and why."""

    cell: str
    seed: int
    why: str


@dataclass(frozen=True, slots=True)
class CellFigures(Record):
    """One cell of the grid: means over its seeds; `difference` in bits per byte, None for the baseline and without
    pairs; `verdict` says what the difference shows."""

    cell: str
    seeds: int
    bits_per_byte: float
    max_violation: float | None
    max_violation_worst: float | None
    dead_experts: float | None
    nanoseconds_per_token: float
    picoseconds_per_flop: float
    active_parameters: int
    difference: Difference | None
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class SweepFigures(Record):
    """A sweep, finished or in progress."""

    baseline: str
    cells: list[CellFigures]
    runs: list[SweptRun]
    missing: list[MissingRun] = field(default_factory=lambda: list[MissingRun]())
