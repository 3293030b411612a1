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
from penstock.run.records.sweep import CellFigures, SweepFigures, SweptRun

if TYPE_CHECKING:
    from penstock.hooks.contracts.stopping import StopRule
    from penstock.run.records.sweep import CellShape
    from penstock.sweep.controller import Controller
    from penstock.sweep.grid import Sweep


@click.command()
@click.argument("sweep_file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check every cell, print parameter counts and estimated cost, and exit without training.",
)
@click.option("--retry-failed", is_flag=True, help="Train runs again that failed before.")
@runs_option
@output.json_option
@click.pass_obj
def sweep(
    registry: Registry, sweep_file: Path, dry_run: bool, retry_failed: bool, runs: Path, as_json: bool
) -> dict[str, Any]:
    """Train every cell of the grid in SWEEP with the same seeds, and compare the cells. With `phases`, train all cells
    on few tokens and the best of them to the end.

    What has been trained is not trained again: run the same command to continue an interrupted sweep, and after adding
    cells.
    """
    from penstock.sweep.finished import finished_sweep

    if not dry_run and not retry_failed and (found := finished_sweep(sweep_file, runs, registry)):
        result = _result(found.name, found.figures, found.report)
    else:
        from penstock.sweep.grid import load_sweep

        loaded = load_sweep(sweep_file, registry)
        if dry_run:
            return _priced(loaded, runs, registry, as_json)
        result = _run(loaded, sweep_file, runs, registry, retry_failed=retry_failed)
    output.print_result(result, as_json, lambda: _text(result))
    _raise_if_incomplete(result)
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
    figures: SweepFigures


def _result(name: str, figures: SweepFigures, report: Path) -> SweepResult:
    seconds = round(sum(run.seconds for run in figures.runs), 1)
    return SweepResult(name, figures.baseline, seconds, figures.cells, figures.runs, str(report), figures)


def _run(loaded: Sweep, sweep_file: Path, runs: Path, registry: Registry, *, retry_failed: bool) -> SweepResult:
    from penstock.run.records.record import write_record
    from penstock.sweep.controller import Controller
    from penstock.sweep.data import corpora_of, other_vocabularies, with_data
    from penstock.sweep.documents import read_documents
    from penstock.sweep.figures import figures_of
    from penstock.sweep.files import FIGURES, SweepFiles, disk_errors_named, locked
    from penstock.sweep.finished import note_finished
    from penstock.sweep.inline import Inline
    from penstock.sweep.measuring import measure_finalists
    from penstock.sweep.report import write_report
    from penstock.sweep.shape import costs_of, require_equal_flops, shapes_of, write_shapes
    from penstock.train.signals import terminate_as_interrupt

    name = loaded.settings.name
    folder = runs / name
    _, shapes = _checked(loaded, runs, registry)
    loaded = with_data(loaded, runs, prepare=True)
    shapes |= shapes_of(other_vocabularies(loaded), SweepFiles(folder))
    require_equal_flops(loaded, shapes)
    launcher = loaded.settings.launcher
    walk = Controller(
        loaded,
        runs,
        registry,
        launcher.build(folder=folder / "logs") if launcher else Inline(),
        rule=_rule_of(loaded),
        costs=costs_of(loaded, shapes),
    )
    report = folder / "sweep.html"

    def write() -> SweepFigures:
        figures = figures_of(walk, shapes)
        write_record(folder / FIGURES, figures)
        write_report(name, figures, read_documents(walk), len([*figures.runs, *figures.missing]), folder)
        return figures

    with terminate_as_interrupt(), disk_errors_named(folder), locked(folder):
        write_shapes(loaded, walk.files, shapes)
        if retry_failed:
            walk.files.forget_failures()
        try:
            walk.run()
            measured = measure_finalists(walk, folder / "logs")
        finally:
            figures = write()
        if measured:
            note_finished(folder, [sweep_file, loaded.config_file], loaded.code, corpora_of(loaded), registry)
    return _result(name, figures, report)


def _rule_of(loaded: Sweep) -> StopRule | None:
    stop = loaded.settings.stop
    return None if stop is None or stop.entry.component.name == "none" else stop.build()


def _raise_if_incomplete(result: SweepResult) -> None:
    """Every cell of a sweep without phases was asked for to its end, and at least one of a sweep with phases."""
    from penstock.hooks.problems import ExitCode, Problem

    with_phases = any(phase.name == "short" for phase in result.figures.phases)
    none = not any(cell.state == "finished" for cell in result.cells)
    wrong = {
        "failed": ("failed-cell", "change its settings, or train it again with --retry-failed"),
        "capped": ("nothing-finished", "raise the budget, and give the same command again"),
    }
    problems = [
        Problem(wrong[cell.state][0], cell.reason, cell.cell, wrong[cell.state][1])
        for cell in result.cells
        if (cell.state == "failed" and (none or not with_phases)) or (cell.state == "capped" and none)
    ]
    if problems:
        raise ProblemError(problems, ExitCode.FAILED)


def _checked(loaded: Sweep, runs: Path, registry: Registry) -> tuple[Controller, dict[str, CellShape]]:
    """A walk that trains nothing and the shapes of the cells, after every check that needs no work. What is known of
    the data is that of prepared data; a vocabulary that is not prepared counts as it is asked for."""
    from penstock.sweep.controller import Controller
    from penstock.sweep.data import with_data
    from penstock.sweep.inline import Inline
    from penstock.sweep.shape import costs_of, require_equal_flops, shapes_of

    loaded = with_data(loaded, runs, prepare=False)
    walk = Controller(loaded, runs, registry, Inline(), rule=_rule_of(loaded))
    shapes = shapes_of(loaded, walk.files)
    costs_of(loaded, shapes)
    require_equal_flops(loaded, shapes)
    return walk, shapes


def _priced(loaded: Sweep, runs: Path, registry: Registry, as_json: bool) -> dict[str, Any]:
    from penstock.sweep.price import price_of, price_text, workers_of

    walk, shapes = _checked(loaded, runs, registry)
    launcher = loaded.settings.launcher
    workers, threads = workers_of(launcher) if launcher else (1, None)
    price = price_of(walk, shapes, workers, threads)
    output.print_result(price, as_json, lambda: price_text(price))
    return price.to_json()


def _text(result: SweepResult) -> str:
    from penstock.sweep.compare import text

    return f"{text(result.figures)}\n\n{result.seconds:,.0f} s of training\nreport: {result.report}"
