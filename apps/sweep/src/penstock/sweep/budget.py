"""The caps of a sweep. What a cap leaves out depends on the order of cells, seeds and rungs, and not on who trains."""

from __future__ import annotations

from penstock.run.records.sweep import RungResult, Spent
from penstock.sweep.config import Budget


class Ledger:
    """Reserves what the runs of a sweep may use, in the order in which they are planned, and counts what they used.

    Caps go by what is reserved, so a run that fails early leaves no room for another one. Hours are the exception: they
    are known once a run was measured, so a cap of hours may leave out other runs on another machine.
    """

    def __init__(self, caps: Budget) -> None:
        self._caps = caps
        self._reserved_tokens = 0
        self._reserved_runs: set[object] = set()
        self._used: dict[object, tuple[int, float]] = {}
        self._found_tokens, self._found_seconds = 0, 0.0

    def refusal(self, run: object, tokens: int) -> str:
        """Why `run` may not train so many tokens more; empty if it may, and they are reserved then."""
        caps, runs = self._caps, len(self._reserved_runs | {run})
        if caps.runs is not None and runs > caps.runs:
            return f"the budget of {caps.runs:,} runs is used up"
        if refusal := self.ramps_refusal(tokens):
            return refusal
        self._reserved_runs.add(run)
        return ""

    def ramps_refusal(self, tokens: int) -> str:
        """Why ramps that find the rates of a cell may not take so many tokens; empty if they may, and they are reserved
        then. Ramps are no runs."""
        cap = self._caps.tokens
        if cap is not None and self._reserved_tokens + tokens > cap:
            return f"{tokens:,} tokens more would exceed the budget of {cap:,}"
        self._reserved_tokens += tokens
        return ""

    def out_of_hours(self) -> str:
        """Why no run may begin now; empty if one may."""
        hours = self._caps.hours
        return f"the budget of {hours:g} hours is used up" if hours is not None and self._hours >= hours else ""

    def measured(self, run: object, result: RungResult, skipped: int = 0) -> None:
        """Counts the tokens and the seconds of training until a result, which include those until the results before
        it. The run took `skipped` of its tokens over from another one."""
        tokens, seconds = self._used.get(run, (0, 0.0))
        self._used[run] = max(tokens, result.tokens - skipped), max(seconds, result.seconds)

    def failed(self, run: object) -> None:
        """Counts a run without a result. What it computed until it failed is not known."""
        self._used.setdefault(run, (0, 0.0))

    def found(self, tokens: int, seconds: float) -> None:
        """Counts ramps that have ended."""
        self._found_tokens += tokens
        self._found_seconds += seconds

    def release(self, tokens: int) -> None:
        """Gives back what ramps reserved and did not use."""
        self._reserved_tokens -= tokens

    @property
    def _hours(self) -> float:
        return (self._found_seconds + sum(seconds for _, seconds in self._used.values())) / 3600

    def spent(self) -> Spent:
        """What was used: of runs, the tokens until their last results."""
        caps, tokens = self._caps, self._found_tokens + sum(tokens for tokens, _ in self._used.values())
        return Spent(self._hours, tokens, len(self._used), caps.hours, caps.tokens, caps.runs)
