"""Results of training: what `train` prints, `status.json`, `sizes.json` and parameter counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.run.records.record import ABSENT, Record


@dataclass(frozen=True, slots=True)
class ParameterCounts(Record):
    """Parameter counts: total, trained, active for one token, and by role."""

    total: int
    trained: int | None = field(default=None, metadata=ABSENT)
    active: int | None = None
    by_role: dict[str, int] = field(default_factory=lambda: dict[str, int]())


@dataclass(frozen=True, slots=True)
class Status(Record):
    """Progress of the run. `heldout` are the figures of its last held-out evaluation, by name; `message` says why it
    failed."""

    state: str = "unknown"
    step: int | None = field(default=None, metadata=ABSENT)
    steps: int | None = field(default=None, metadata=ABSENT)
    tokens_seen: int | None = field(default=None, metadata=ABSENT)
    seconds: float | None = field(default=None, metadata=ABSENT)
    parameters: ParameterCounts | None = field(default=None, metadata=ABSENT)
    device: str | None = field(default=None, metadata=ABSENT)
    ranks: int | None = field(default=None, metadata=ABSENT)
    heldout: dict[str, float] | None = field(default=None, metadata=ABSENT)
    message: str | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class Trained(Record):
    """What `train` prints. `seconds` covers the training steps; `learnt` is what the architecture reports of itself.
    `already_finished`: the run had been trained to its end before."""

    run_dir: str
    expert_layers: int
    seconds: float
    train_tokens: int
    tokens_per_second: float
    steps: int
    parameters: ParameterCounts
    learnt: dict[str, float] | None = field(default=None, metadata=ABSENT)
    already_finished: bool | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True)
class FormatSize(Record):
    """Bytes of the stored parameters in one format."""

    format: str
    bytes: float
