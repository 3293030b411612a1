"""What `train --lr-find` and `train --overfit-tokens` measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.run.records.record import Record


@dataclass(frozen=True, slots=True)
class RateCurve(Record):
    """Losses of one ramp, in nats a counted token: each before the step at its rate. `at_rest` are those of the same
    steps with the rule at the lowest rate, where another rule of the optimizer learns. `suggested` is None where the
    loss never fell."""

    seed: int
    rates: list[float]
    losses: list[float]
    suggested: float | None
    at_rest: list[float] = field(default_factory=lambda: list[float]())


@dataclass(frozen=True, slots=True)
class FoundRate(Record):
    """The rate of one rule of the optimizer: the geometric mean over seeds, with the bounds of its 95 % interval where
    at least three seeds have one. None if no seed suggests one, or if they disagree, which the bounds then show.
    `setting` is what the optimizer calls it, `now` what it is there."""

    rule: str
    setting: str
    now: float
    suggested: float | None
    low: float | None
    high: float | None
    curves: list[RateCurve] = field(default_factory=lambda: list[RateCurve]())


@dataclass(frozen=True, slots=True)
class FoundRates(Record):
    """What `train --lr-find` prints: `steps` and `tokens` are those of all ramps."""

    name: str
    steps: int
    tokens: int
    rates: list[FoundRate]


@dataclass(frozen=True, slots=True)
class Overfitted(Record):
    """What `train --overfit-tokens` prints: the loss of the same tokens before and after, in nats a counted token, and
    for a loss that stayed above `bound`, what may be wrong."""

    tokens: int
    counted: int
    first_loss: float
    loss: float
    bound: float
    steps: int
    reached: bool
    findings: list[str] = field(default_factory=lambda: list[str]())
