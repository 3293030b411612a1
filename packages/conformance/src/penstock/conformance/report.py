"""What a check found. The number of laws run is part of the verdict: a kit that runs nothing passes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The outcome of a law for a component."""

    PASSED = "passed"
    FAILED = "failed"
    WAIVED = "waived"  # broken, and excused for a time
    NOT_APPLICABLE = "not applicable"
    NOT_REACHED = "not reached"  # a law that it needs is broken


@dataclass(frozen=True, slots=True)
class Waiver:
    """Excuses a component from one law until a date, for a reason."""

    law: str
    reason: str
    until: date

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError(f"the waiver of {self.law} needs a reason")
        if type(self.until) is not date:  # a datetime is a date, and cannot be compared with one
            raise ValueError(f"the waiver of {self.law} needs the date on which it ends, not {self.until!r}")


@dataclass(frozen=True, slots=True)
class Result:
    """One law's outcome: `seen` says what was observed or why the law did not apply."""

    law: str
    statement: str
    status: Status
    seen: str = ""
    remedy: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.law}: {self.statement}", f"  {self.status}: {self.seen}"]
        return "\n".join(lines + ([f"  remedy: {self.remedy}"] if self.remedy else []))


@dataclass(frozen=True, slots=True)
class Report:
    """The results of every law of the component's kind, in the order of the kit."""

    component: str
    kind: str
    contract: int
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether laws were run and every broken one is waived."""
        bad = {Status.FAILED, Status.NOT_REACHED}
        return bool(self.results) and not any(result.status in bad for result in self.results)

    @property
    def broken(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.status is Status.FAILED)

    @property
    def verdict(self) -> str:
        """For example `31 run, 29 passed, 2 not applicable`."""
        counts = Counter(result.status for result in self.results)
        parts = [f"{counts[status]} {status}" for status in Status if counts[status] or status is Status.PASSED]
        return ", ".join([f"{len(self.results)} run", *parts])

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON-compatible dict."""
        return {
            "component": self.component,
            "kind": self.kind,
            "contract": self.contract,
            "passed": self.passed,
            "verdict": self.verdict,
            "results": [
                {
                    "law": result.law,
                    "statement": result.statement,
                    "status": str(result.status),
                    "seen": result.seen,
                    "remedy": result.remedy,
                    "seconds": round(result.seconds, 4),
                }
                for result in self.results
            ],
        }
