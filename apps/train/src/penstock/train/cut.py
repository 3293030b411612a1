"""How a step's batch is cut: over ranks, and on each of them into micro-batches.

Gradients are sums. Each rank adds those of its micro-batches in turn, then the ranks' sums are added: the cut is the
order of additions, on which rounding depends. Two numbers have one sum, so 2 ranks and 2 micro-batches are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from penstock.hooks.registry import Choice


@dataclass(frozen=True, slots=True)
class Cut:
    """`micro_batches` are those of each rank; `exact`, whether the engine promises the bits of one process."""

    ranks: int
    micro_batches: int
    engine: str
    exact: bool

    @classmethod
    def of(cls, ranks: int, micro_batches: int, engine: Choice) -> Cut:
        capabilities = engine.entry.component.capabilities
        return cls(ranks, micro_batches, engine.entry.id, ranks == 1 or "bit-equal" in capabilities)

    @classmethod
    def saved(cls, state: Mapping[str, Any]) -> Cut | None:
        """That of a trainer's state; None where it was not kept yet."""
        return cls(**state["cut"]) if "cut" in state else None

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def has_the_sums_of(self, other: Cut) -> bool:
        """Whether gradients are added in the same order."""
        if self.engine != other.engine and not (self.exact and other.exact):
            return False
        if self.ranks * self.micro_batches != other.ranks * other.micro_batches:
            return False
        if self.ranks * self.micro_batches <= 2:
            return True
        alike = self.engine == other.engine or self.ranks <= 2  # engines ask the library for other sums of more ranks
        return alike and self.ranks == other.ranks

    def change_from(self, before: Cut, *, unlike: str | None = None) -> str | None:
        """A sentence for a run that goes on with this cut; None if it is the one before. `unlike` says what else
        depends on the cut."""
        if self == before:
            return None
        if unlike and (self.ranks, self.micro_batches) != (before.ranks, before.micro_batches):
            so = unlike
        elif self.has_the_sums_of(before):
            so = "gradients are added in the same order, so every bit stays that of an uninterrupted run"
        else:
            so = "gradients are added in another order, so the run differs from an uninterrupted one by rounding"
        drawn = "; random numbers, if the model draws any, are each rank's own" if self.ranks != before.ranks else ""
        return f"continuing with {self} (before: {before}): {so}{drawn}"

    def __str__(self) -> str:
        ranks = f"{self.ranks} rank{'s' * (self.ranks > 1)}"
        return f"{ranks} of {self.micro_batches} micro-batch{'es' * (self.micro_batches > 1)}, engine {self._name}"

    @property
    def _name(self) -> str:
        return self.engine.rpartition(":")[2]
