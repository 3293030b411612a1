"""The learning rates of each cell: those of its config, carried over from another width, or found by a ramp.

A found rate is a file of its cell. It is found once, before the phases, so a sweep that continues has the same rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from penstock.cli import output
from penstock.hooks.contracts import ParameterRole
from penstock.hooks.contracts.launching import Job, Launcher, Outcome
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.records.sweep import CellRates
from penstock.sweep.budget import Ledger
from penstock.sweep.files import SweepFiles, TrialFiles
from penstock.sweep.grid import Cell, Sweep
from penstock.sweep.trials import failure_of
from penstock.train.width import override_at_width, override_of_found, width_of

FIND = "penstock.sweep.find:find_job"


class CellRateOverrides:
    """What the rates of a sweep add to the config of each cell. Raises `ProblemError` if they cannot follow the width
    of a cell, or if a ramp has no rate to change."""

    def __init__(self, sweep: Sweep, files: SweepFiles) -> None:
        self.settings, self._files = sweep.settings.rate, files
        self._seed = sweep.settings.seeds[0]
        self._of = self._known(sweep)

    def of(self, cell: Cell) -> tuple[str, ...] | None:
        """Overrides that make the cell's rates; none if they are those of its config. None: not found yet."""
        if cell.name not in self._of:
            found = self.files(cell).rates()
            if found is None:
                return None
            override = override_of_found(cell.config, found.found)
            self._of[cell.name] = (override,) if override else ()
        return self._of[cell.name]

    def found(self, cell: Cell) -> CellRates | None:
        """What ramps found for a cell."""
        return self.files(cell).rates() if self.settings.use == "lr-find" else None

    def ramps(self, cell: Cell) -> int:
        """How many ramps find the rates of a cell: one for each seed, or with two rules a pair for each of these."""
        if self.settings.use != "lr-find":
            return 0
        return self.settings.seeds * (4 if hasattr(cell.config.train.optimizer.settings, "adamw_lr") else 1)

    def ramp_tokens(self, cell: Cell) -> int:
        """Tokens of all ramps of a cell, if none of them ends early."""
        return self.ramps(cell) * self.settings.steps * cell.config.tokens_per_step

    def files(self, cell: Cell) -> TrialFiles:
        """The folder of the cell's found rates."""
        return self._files.trial(cell.key, "rates", self._seed, [self.settings.seeds, self.settings.steps])

    def _known(self, sweep: Sweep) -> dict[str, tuple[str, ...]]:
        """Overrides of the cells whose rates need no ramp."""
        if self.settings.use == "fixed":
            return {cell.name: () for cell in sweep.cells}
        known: dict[str, tuple[str, ...]] = {}
        problems: list[Problem] = []
        for cell in sweep.cells:
            try:
                if self.settings.use == "width":
                    width = self.settings.width or width_of(sweep.baseline.config)
                    same = width == width_of(cell.config)
                    known[cell.name] = () if same else (override_at_width(cell.config, width),)
                elif rate_of(cell.config.train.optimizer.settings) is None:
                    name = cell.config.train.optimizer.entry.component.name
                    raise ProblemError(Problem("unsupported", f"the optimizer '{name}' has no setting lr", "rate.use"))
            except ProblemError as error:
                problems += [Problem(each.code, each.what, f"cell '{cell.name}'", each.fix) for each in error.problems]
        if problems:
            raise ProblemError(problems)
        return known


def rate_of(optimizer: Any) -> float | None:
    """The learning rate of the matrices of layers; None for an optimizer whose settings do not say."""
    own: Mapping[ParameterRole, float] = getattr(optimizer, "role_lr", None) or {}
    return own.get(ParameterRole.MATRIX, getattr(optimizer, "lr", None))


def find_missing(
    rates: CellRateOverrides,
    cells: Sequence[Cell],
    sweep: Sweep,
    runs: Path,
    registry: Registry,
    launcher: Launcher,
    ledger: Ledger,
) -> dict[str, tuple[str, str]]:
    """Finds the rates of the cells that have none, and returns a state and a reason for those that have none still. The
    ledger counts all ramps, and ends this when its hours are used up."""
    lost: dict[str, tuple[str, str]] = {}
    missing: dict[str, Cell] = {}
    for cell in cells:
        if found := rates.found(cell):
            ledger.found(found.found.tokens, found.seconds)
        elif rates.of(cell) is None:
            missing[cell.name] = cell
            if failure := rates.files(cell).failure():
                lost[cell.name] = "failed", failure.reason

    def jobs() -> Iterator[Job]:
        for name in [name for name in missing if name not in lost]:
            if refusal := ledger.out_of_hours():
                lost[name] = "capped", refusal
            else:
                yield Job(name, _argument(rates, sweep, missing[name], runs, registry))

    for outcome, tries in _outcomes(launcher, jobs()):
        files = rates.files(missing[outcome.name])
        if outcome.value is not None:
            found = CellRates.from_json(outcome.value)
            files.write_rates(found)
            ledger.found(found.found.tokens, found.seconds)
            output.note(f"{outcome.name}: {rates_text(found)}")
        else:
            failure, problem = failure_of(outcome, tries)
            files.write_failure(failure)
            output.warn(f"{outcome.name}: no rate was found: {problem}")
            lost[outcome.name] = "failed", outcome.reason
    return lost


def rates_text(found: CellRates | None) -> str:
    """The rates that ramps suggest, in words."""
    rates = found.found.rates if found else []
    return ", ".join(
        f"no {each.setting} suggested, so it stays {each.now:g}"
        if each.suggested is None
        else f"{each.setting} {each.suggested:.3g}"
        for each in rates
    )


def _outcomes(launcher: Launcher, jobs: Iterator[Job]) -> Iterator[tuple[Outcome, int]]:
    """One outcome of each job, and how often it was tried. A job whose worker died is tried once more."""
    begun: dict[str, Job] = {}
    lost: list[str] = []

    def noted(first: Job) -> Iterator[Job]:
        for job in chain([first], jobs):
            begun[job.name] = job
            yield job

    first = next(jobs, None)
    for outcome in launcher.run(FIND, noted(first)) if first else ():  # a launcher without jobs may start a cluster
        if outcome.state == "lost":
            lost.append(outcome.name)
        else:
            yield outcome, 1
    if lost:
        yield from ((outcome, 2) for outcome in launcher.run(FIND, [begun[name] for name in lost]))


def _argument(rates: CellRateOverrides, sweep: Sweep, cell: Cell, runs: Path, registry: Registry) -> dict[str, Any]:
    """See `penstock.sweep.find.find_job`."""
    return {
        "config": str(sweep.config_file),
        "overrides": cell.arguments(sweep.settings.seeds[0]),
        "runs": str(runs),
        "seeds": rates.settings.seeds,
        "steps": rates.settings.steps,
        "selection": asdict(registry.selection),
    }
