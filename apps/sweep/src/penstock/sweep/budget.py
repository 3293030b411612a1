"""The caps of a sweep. What a cap leaves out depends on the order of cells, seeds and rungs, and not on who trains."""

from __future__ import annotations

from penstock.run.records.sweep import RungResult, Spent
from penstock.sweep.config import Budget


class Ledger:
    """Counts what the runs of a sweep use, in the order in which they are planned.

    Hours are the exception to this order: they are known once a run was measured, so a cap of hours may leave out other
    runs on another machine.
    """

    def __init__(self, caps: Budget) -> None:
        self._caps = caps
        self._tokens, self._seconds = 0, 0.0
        self._runs: set[object] = set()
        self._counted: dict[object, float] = {}

    def refusal(self, run: object, tokens: int) -> str:
        """Why `run` may not train so many tokens more; empty if it may, and they are counted then."""
        caps, runs = self._caps, len(self._runs | {run})
        if caps.runs is not None and runs > caps.runs:
            return f"the budget of {caps.runs:,} runs is used up"
        if caps.tokens is not None and self._tokens + tokens > caps.tokens:
            return f"{tokens:,} tokens more would exceed the budget of {caps.tokens:,}"
        self._runs.add(run)
        self._tokens += tokens
        return ""

    def out_of_hours(self) -> str:
        """Why no run may begin now; empty if one may."""
        hours = self._caps.hours
        return f"the budget of {hours:g} hours is used up" if hours is not None and self._hours >= hours else ""

    def measured(self, run: object, result: RungResult) -> None:
        """Counts the seconds of training until a result, which include those until the results before it."""
        before = self._counted.get(run, 0.0)
        self._counted[run] = max(before, result.seconds)
        self._seconds += self._counted[run] - before

    def spend(self, tokens: int, seconds: float) -> None:
        """Counts work that no cap may leave out: ramps that find rates."""
        self._tokens += tokens
        self._seconds += seconds

    @property
    def _hours(self) -> float:
        return self._seconds / 3600

    def spent(self) -> Spent:
        caps = self._caps
        return Spent(self._hours, self._tokens, len(self._runs), caps.hours, caps.tokens, caps.runs)
