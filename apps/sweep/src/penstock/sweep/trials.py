"""The runs of a sweep: what they are, how those of a rung end, and the jobs that train them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from penstock.hooks.contracts.launching import Job, Outcome
from penstock.hooks.problems import Problem, failed
from penstock.run.records.sweep import FailedRun
from penstock.sweep.files import TrialFiles
from penstock.sweep.grid import Cell
from penstock.sweep.phases import Phase

OF_THE_MACHINE = frozenset({"disk", "cannot-write", "missing-data", "other-data"})
"""Codes of problems that are not a cell's own. They end the sweep, and leave its cells as they are."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a cell."""

    cell: Cell
    phase: Phase
    seed: int
    overrides: tuple[str, ...]
    files: TrialFiles

    @property
    def name(self) -> str:
        return f"{self.cell.name}; {self.phase.name}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class State:
    """Where a cell is: see `CellFigures`."""

    name: str
    reason: str = ""


class Ended:
    """The runs of a rung that have no result and will get none: `failures` by the name of the run, and caps. Of a cell
    the first run that failed counts, in the order in which they are planned; those after it are left out."""

    def __init__(self, planned: Sequence[Trial]) -> None:
        self._order = {trial.name: place for place, trial in enumerate(planned)}
        self._cells = {trial.name: trial.cell.name for trial in planned}
        self._caps: dict[str, str] = {}
        self.failures: dict[str, str] = {}

    def capped(self, trial: Trial, refusal: str) -> None:
        self._caps[trial.name] = refusal

    def failed(self, trial: Trial, reason: str) -> None:
        self.failures[trial.name] = reason

    def has(self, trial: Trial) -> bool:
        return trial.name in self._caps or trial.name in self.failures or self.is_left_out(trial)

    def is_left_out(self, trial: Trial) -> bool:
        """Whether an earlier run of the same cell has failed."""
        first = self._first_failure(trial.cell.name)
        return first is not None and self._order[first] < self._order[trial.name] and trial.name not in self._caps

    def why(self, trial: Trial) -> State:
        """Why a run that has ended has no result."""
        if self.is_left_out(trial):
            first = self._first_failure(trial.cell.name) or ""
            return State("left out", f"an earlier seed failed: {self.failures[first]}")
        cap = self._caps.get(trial.name)
        return State("failed", self.failures[trial.name]) if cap is None else State("capped", cap)

    def states(self) -> dict[str, State]:
        """The states of the cells by name. A cell of which one run failed has failed, even if another was capped."""
        states = {self._cells[name]: State("capped", why) for name, why in reversed(self._caps.items())}
        failed = {name: self._first_failure(name) for name in self._cells.values()}
        return states | {cell: State("failed", self.failures[run]) for cell, run in failed.items() if run is not None}

    def _first_failure(self, cell: str) -> str | None:
        failed = [name for name in self.failures if self._cells[name] == cell]
        return min(failed, key=lambda name: self._order[name], default=None)


class Jobs:
    """Jobs of one rung after another, for one call of a launcher: its workers stay warm from rung to rung. After its
    last job it goes on if more are added while the launcher still asks; a launcher that has read all jobs before is
    called again."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._refused: Callable[[str], bool] = lambda name: False

    def add(self, jobs: Iterable[Job], refused: Callable[[str], bool]) -> None:
        """`refused` is asked when a job is taken, with its name."""
        self._jobs.extend(jobs)
        self._refused = refused

    def __iter__(self) -> Iterator[Job]:
        return self

    def __next__(self) -> Job:
        while self._jobs:
            job = self._jobs.popleft()
            if not self._refused(job.name):
                return job
        raise StopIteration


def failure_of(outcome: Outcome, tries: int) -> tuple[FailedRun, Problem]:
    """Why a job without a result has failed, as its file has it and as a problem. Raises `ProblemError` for a problem
    of the machine, which would fail the other cells as well."""
    problem = Problem(**outcome.problems[0]) if outcome.problems else Problem("failed-cell", outcome.reason)
    if problem.code in OF_THE_MACHINE:
        raise failed(problem.code, problem.what, problem.where, problem.fix)
    return FailedRun(outcome.reason, tries, problem.where or None, problem.fix or None), problem
