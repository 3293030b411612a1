"""Costs and savings of assignments other than the routers': `modified.json`."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.run.records.record import Record


@dataclass(frozen=True, slots=True)
class ModificationRow(Record):
    """One strategy at one fraction. `changed` is the share of assignments that differ from the router's; `pareto` marks
    the rows that no other row beats in quality, MaxVio and exchange."""

    strategy: str
    fraction: float
    changed: float
    bits_per_byte: float
    perplexity: float
    max_violation: float
    max_violation_batch: float
    exchange_seconds: float
    slowdown: float
    pareto: bool = False


@dataclass(frozen=True, slots=True)
class ModifiedRouting(Record):
    """The model's own routing first, then each strategy with each fraction."""

    model: str
    checkpoint: str | None
    split: str
    tokens: int
    temperature: float
    topology: str
    gpus: int
    rows: list[ModificationRow]
