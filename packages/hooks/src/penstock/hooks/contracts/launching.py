"""Launchers: who runs many independent jobs, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Job:
    """A call to make in a worker: `argument` is what JSON can hold."""

    name: str
    argument: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: `done` with the value that the function returned, `failed` if it raised, or `lost` if its worker
    died. `reason` says why it is not done. `problems` are those of a `ProblemError`, as `Problem.as_dict` writes them;
    a launcher that only gives a reason leaves them out."""

    name: str
    state: Literal["done", "failed", "lost"]
    value: dict[str, Any] | None
    reason: str
    problems: list[dict[str, str]] = field(default_factory=lambda: list[dict[str, str]]())


class Launcher(Protocol):
    """Runs jobs in processes of this machine or of others."""

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Calls `function`, "module:attribute", with the argument of each job. Outcomes come in any order. Closing the
        iterator ends all workers."""
        ...
