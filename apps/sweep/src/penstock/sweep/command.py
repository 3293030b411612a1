"""`penstock sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import output
from penstock.cli.options import runs_option
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.run.records.record import Record
from penstock.run.records.sweep import CellFigures, MissingRun, SweepFigures, SweptRun

if TYPE_CHECKING:
    from penstock.sweep.grid import Sweep


@click.command()
@click.argument("sweep_file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check every cell, print parameter counts and estimated cost, and exit without training.",
)
@runs_option
@output.json_option
@click.pass_obj
def sweep(registry: Registry, sweep_file: Path, dry_run: bool, runs: Path, as_json: bool) -> dict[str, Any]:
    """Train every cell of the grid in SWEEP with the same seeds, and compare the cells.

    Finished runs are not trained again: run the same command to continue an interrupted sweep.
    """
    from penstock.sweep.grid import load_sweep
    from penstock.sweep.runs import require_equal_flops
    from penstock.train.ranks import require_one_process

    loaded = load_sweep(sweep_file, registry)
    for config in (config for cell in loaded.cells for config in cell.configs.values()):
        require_one_process(config.train)
    active = require_equal_flops(loaded)
    if dry_run:
        price = _price(loaded, active, runs)
        output.print_result(price, as_json, lambda: _price_text(price))
        return price.to_json()
    result = _run(loaded, runs, registry)
    output.print_result(result, as_json, lambda: _text(result))
    return result.to_json()


@dataclass(frozen=True, slots=True)
class SweepResult(Record):
    """A finished sweep, its page, and the seconds of training of all its runs."""

    name: str
    baseline: str
    seconds: float
    cells: list[CellFigures]
    runs: list[SweptRun]
    report: str

    @property
    def figures(self) -> SweepFigures:
        return SweepFigures(self.baseline, self.cells, self.runs)


@dataclass(frozen=True, slots=True)
class CellPrice(Record):
    """The cost of one cell's runs."""

    cell: str
    active_parameters: int
    tokens: int
    flops: int
    runs: int
    finished: int
    seconds_per_run: float


@dataclass(frozen=True, slots=True)
class SweepPrice(Record):
    """The estimated cost of what is left of a sweep."""

    name: str
    baseline: str
    cells: list[CellPrice]
    seconds_left: float


def _run(loaded: Sweep, runs: Path, registry: Registry) -> SweepResult:
    from penstock.run.records.record import write_record
    from penstock.sweep.compare import compare
    from penstock.sweep.documents import Documents
    from penstock.sweep.report import write_report
    from penstock.sweep.runs import train_and_measure

    settings = loaded.settings
    folder = runs / settings.name
    jobs = [(cell, seed) for seed in settings.seeds for cell in loaded.cells]  # pairs are complete early
    rows: list[SweptRun] = []

    def write(failure: str = "") -> tuple[SweepFigures, Path]:
        """What is known so far, with a reason for every run that has no figures."""
        left = [(cell.name, seed) for cell, seed in jobs[len(rows) :]]
        missing = [MissingRun(*run, "not run yet") for run in left]
        if failure:
            missing[0] = MissingRun(*left[0], f"failed: {failure}")
        result = SweepFigures(loaded.baseline, compare(rows, loaded.baseline), rows, missing)
        write_record(folder / "sweep.json", result)
        return result, write_report(settings.name, result, Documents(), len(jobs), folder)

    for number, (cell, seed) in enumerate(jobs, 1):
        output.note(f"{number} of {len(jobs)}: {cell.name}; seed {seed}")
        try:
            rows.append(train_and_measure(loaded, cell, seed, runs, registry))
        except ProblemError as error:
            write(error.problems[0].what)
            raise
        result, report = write()
    return SweepResult(
        name=settings.name,
        baseline=loaded.baseline,
        seconds=round(sum(row.seconds for row in rows), 1),
        cells=result.cells,
        runs=rows,
        report=str(report),
    )


def _text(result: SweepResult) -> str:
    from penstock.sweep.compare import text

    return f"{text(result.figures)}\n\n{result.seconds:,.0f} s of training\nreport: {result.report}"


def _price(loaded: Sweep, active: dict[str, int], runs: Path) -> SweepPrice:
    from penstock.sweep.runs import seconds_per_token
    from penstock.train.reuse import finished, run_of

    cells = []
    for cell in loaded.cells:
        config = next(iter(cell.configs.values()))
        found = [run_of(runs, each) for each in cell.configs.values()]
        done = sum(run is not None and finished(run) for run in found)
        tokens = config.train.tokens
        cells.append(
            CellPrice(
                cell=cell.name,
                active_parameters=active[cell.name],
                tokens=tokens,
                flops=6 * active[cell.name] * tokens,
                runs=len(cell.configs),
                finished=done,
                seconds_per_run=seconds_per_token(config) * tokens,
            )
        )
    left = sum(cell.seconds_per_run * (cell.runs - cell.finished) for cell in cells)
    return SweepPrice(loaded.settings.name, loaded.baseline, cells, left)


def _price_text(price: SweepPrice) -> str:
    rows = [
        (
            cell.cell,
            f"{cell.active_parameters:,}",
            f"{cell.tokens:,}",
            f"{cell.flops:.2e}",
            f"{cell.finished} of {cell.runs}",
            f"{cell.seconds_per_run:.0f}",
        )
        for cell in price.cells
    ]
    head = ("cell", "active parameters", "tokens per run", "FLOPs per run", "runs finished", "s per run")
    return (
        f"{output.table(head, rows)}\n\nabout {price.seconds_left / 60:.0f} min of forward and backward passes "
        "remain, extrapolated from a few timed here; optimizer, data and evaluation are extra\n"
        "nothing was written: this was a dry run"
    )
