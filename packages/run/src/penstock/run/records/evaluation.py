"""Results of an evaluation: `evaluation.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.hooks.contracts import Interval
from penstock.run.records.record import ABSENT, Record


@dataclass(frozen=True, slots=True)
class TaskFigures(Record):
    """Results of one task. `intervals` are keyed by metric name; `version` is the task's distribution and contract."""

    metrics: dict[str, float | None] = field(default_factory=lambda: dict[str, float | None]())
    details: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    intervals: dict[str, Interval] = field(default_factory=lambda: dict[str, Interval]())
    version: str | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class HeldoutText(Record):
    """All held-out text of a run: the SHA-256 of its documents one after the other, their bytes and their number."""

    sha256: str
    bytes: int
    documents: int


@dataclass(frozen=True, slots=True)
class Baselines(Record):
    """Bits per byte of models anyone can build, on the same held-out bytes."""

    unigram_bits_per_byte: float | None = None
    bigram_bits_per_byte: float | None = None
    xz_bits_per_byte: float | None = None

    @property
    def named(self) -> dict[str, float]:
        """Bits per byte by name, without baselines that were not measured."""
        pairs = (
            ("unigram", self.unigram_bits_per_byte),
            ("bigram", self.bigram_bits_per_byte),
            ("xz", self.xz_bits_per_byte),
        )
        return {name: value for name, value in pairs if value is not None and math.isfinite(value)}


@dataclass(frozen=True, slots=True)
class Sample(Record):
    """How the model continues a prompt."""

    prompt: str = ""
    text: str = ""
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Performance(Record):
    """Generation of one sequence: time to the first token and for each further one, and memory."""

    prompt_tokens: int | None = None
    prefill_ms: float | None = None
    decode_ms_median: float | None = None
    decode_ms_p90: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation(Record):
    """What `penstock evaluate` measured for a checkpoint; the baselines and `heldout_bits_per_byte` are of
    `heldout_text`."""

    checkpoint: str = ""
    tasks: dict[str, TaskFigures] = field(default_factory=lambda: dict[str, TaskFigures]())
    measured: list[str] | None = None
    """Names of the tasks that the last evaluation measured; the others are kept from earlier ones."""
    heldout_bits_per_byte: float | None = None
    baselines: Baselines = field(default_factory=Baselines)
    samples: list[Sample] = field(default_factory=lambda: list[Sample]())
    performance: Performance | None = None
    seconds: float | None = None
    heldout_text: HeldoutText | None = field(default=None, metadata=ABSENT)


def heldout_figure(metrics: Mapping[str, float | None]) -> float | None:
    """Bits per byte of all held-out text, the same text that the baselines read; None if only a part was scored."""
    whole = (name for name in metrics if name.startswith("heldout.bits_per_byte@") and "@first-" not in name)
    return next((metrics[name] for name in whole), None)
