"""Where a sweep keeps what it knows: one file a result, each written once and atomically.

runs/<sweep>/
    sweep.json  decisions.jsonl  sweep.html  finished.json           all derived from the files below
    heldout/<text>.json                                              bytes of each held-out document
    cells/<key>/shape.json                                           parameters and bytes of the cell's model
    cells/<key>/rates-seed<n>-<hash>/rates.json                      learning rates that ramps suggest
    cells/<key>/<phase>-seed<n>-<hash>/run.json                      the run directory that trains it
    cells/<key>/<phase>-seed<n>-<hash>/beside.json                   one that was measured at rungs which came later
    cells/<key>/<phase>-seed<n>-<hash>/rungs/<tokens>.json           figures after so many tokens
    cells/<key>/<phase>-seed<n>-<hash>/balance.json                  load of the trained model's experts
    cells/<key>/<phase>-seed<n>-<hash>/failed.json                   why there are none
    cells/<key>/<phase>-seed<n>-<hash>/measured.json                 times, memory and scores of the trained model

A run's folder has the hash of what the phase adds to the cell's config and of what is measured, so that other settings
of a phase begin other runs, and the earlier settings find theirs again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from penstock.hooks.atomic import read_json, write_json, write_text
from penstock.hooks.problems import ExitCode, Problem, ProblemError, disk_problem
from penstock.run.records.record import as_json, read_record, write_record
from penstock.run.records.sweep import (
    Balance,
    CellRates,
    CellShape,
    Decision,
    FailedRun,
    HeldoutBytes,
    MeasuredRun,
    RungResult,
)

FIGURES = "sweep.json"
RUN, BESIDE = "run.json", "beside.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock for the one process that takes the sweep further; it is released even if the process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        what, fix = "another process is running this sweep", "wait until it finishes, or give this one another name"
        raise ProblemError(Problem("run-in-use", what, str(folder), fix)) from None


@contextmanager
def disk_errors_named(folder: Path) -> Iterator[None]:
    """A disk that is full, read-only or gone ends the sweep with one `ProblemError`, and no cell has failed by it."""
    try:
        yield
    except OSError as error:
        problem = disk_problem(error, str(folder))
        if problem is None:
            raise
        raise ProblemError(problem, ExitCode.FAILED) from error


@dataclass(frozen=True, slots=True)
class TrialFiles:
    """The folder of one run of a cell: a phase with a seed."""

    folder: Path

    def result(self, tokens: int) -> RungResult | None:
        return read_record(RungResult, self._rung(tokens))

    def write_result(self, result: RungResult) -> None:
        path = self._rung(result.tokens)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, result)

    def _rung(self, tokens: int) -> Path:
        return self.folder / "rungs" / f"{tokens}.json"

    def measured(self) -> MeasuredRun | None:
        return read_record(MeasuredRun, self.folder / "measured.json")

    def write_measured(self, measured: MeasuredRun) -> None:
        write_record(self.folder / "measured.json", measured)

    def rates(self) -> CellRates | None:
        return read_record(CellRates, self.folder / "rates.json")

    def write_rates(self, rates: CellRates) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_record(self.folder / "rates.json", rates)

    def balance(self, sweep: Path) -> Balance | None:
        """None for a dense model. An earlier version kept it in the run directory."""
        kept, run = read_record(Balance, self.folder / "balance.json"), self.run(sweep)
        return kept if kept is not None or run is None else read_record(Balance, run / FIGURES)

    def write_balance(self, balance: Balance) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_record(self.folder / "balance.json", balance)

    def failure(self) -> FailedRun | None:
        return read_record(FailedRun, self.folder / "failed.json")

    def write_failure(self, failure: FailedRun) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_record(self.folder / "failed.json", failure)

    def run(self, sweep: Path) -> Path | None:
        """The run directory, which lies in the sweep's folder."""
        return self._run(sweep, RUN)

    def beside(self, sweep: Path) -> Path | None:
        """The run directory of rungs that were added when the run was beyond them."""
        return self._run(sweep, BESIDE)

    def _run(self, sweep: Path, pointer: str) -> Path | None:
        path = self.folder / pointer
        if not path.exists():
            return None
        found = sweep / read_json(path)["run"]
        return found if found.is_dir() else None

    def write_run(self, run: Path, *, beside: bool = False) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / (BESIDE if beside else RUN), {"run": run.name})


@dataclass(frozen=True, slots=True)
class SweepFiles:
    """The folder of a sweep."""

    folder: Path

    def trial(self, key: str, phase: str, seed: int, depends_on: Sequence[object]) -> TrialFiles:
        from penstock.run.config import digest  # heavy, and a finished sweep is shown without it

        return TrialFiles(self.folder / "cells" / key / f"{phase}-seed{seed}-{digest(list(depends_on))}")

    def forget_failures(self) -> None:
        """Runs that failed are tried again."""
        for path in self.folder.glob("cells/*/*/failed.json"):
            path.unlink()

    def has_cell(self, key: str) -> bool:
        return (self.folder / "cells" / key).is_dir()

    def runs_of(self, key: str) -> list[Path]:
        """The run directories of a cell that are still there."""
        folders = (self.folder / "cells" / key).glob("*/")
        return [run for folder in folders if (run := TrialFiles(folder).run(self.folder)) is not None]

    def claimed(self) -> set[str]:
        """Names of the run directories that belong to a cell already."""
        return {read_json(path)["run"] for name in (RUN, BESIDE) for path in self.folder.glob(f"cells/*/*/{name}")}

    def shape(self, key: str) -> CellShape | None:
        """None also for one of an earlier version, which counted FLOPs in another way."""
        shape = read_record(CellShape, self._shape(key))
        return shape if shape is not None and shape.flops_per_token else None

    def write_shape(self, key: str, shape: CellShape) -> None:
        self._shape(key).parent.mkdir(parents=True, exist_ok=True)
        write_record(self._shape(key), shape)

    def _shape(self, key: str) -> Path:
        return self.folder / "cells" / key / "shape.json"

    def heldout(self, text: str) -> HeldoutBytes:
        """The documents of a text that some result names."""
        path = self._heldout(text)
        found = read_record(HeldoutBytes, path)
        if found is None:
            fix = "remove the folder cells, so that results are measured again"
            raise ProblemError(Problem("missing-file", "the bytes of held-out documents are gone", str(path), fix))
        return found

    def write_heldout(self, text: str, heldout: HeldoutBytes) -> None:
        """Several workers may write the same."""
        path = self._heldout(text)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                write_record(path, heldout)

    def _heldout(self, text: str) -> Path:
        return self.folder / "heldout" / f"{text[:12]}.json"

    def decisions(self) -> Iterator[Decision]:
        path = self.folder / "decisions.jsonl"
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                yield Decision.from_json(json.loads(line), str(path))

    def write_decisions(self, decisions: Sequence[Decision]) -> None:
        lines = [json.dumps(as_json(each)) for each in decisions]
        self.folder.mkdir(parents=True, exist_ok=True)  # a budget may not have allowed any run
        write_text(self.folder / "decisions.jsonl", "".join(f"{line}\n" for line in lines))
