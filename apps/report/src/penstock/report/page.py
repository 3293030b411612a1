"""The report: runs as one page, one section a run, with a comparison on top where there are several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.hooks.problems import Problem, ProblemError
from penstock.pages.page import write_page
from penstock.report.compare import compare
from penstock.report.data import Run, read_run
from penstock.report.view import view

TEMPLATE = Path(__file__).with_name("runs.html.j2")


def render_report(run_directories: Sequence[Path], out: Path) -> Path:
    """Writes the report about the runs to `out`, whole or not at all, and returns `out`.

    One run gets a page; several get a comparison on top. The same runs give the same bytes. Raises `ProblemError`
    where a directory is no run; a stage that was not run, or a damaged file, is said on the page instead.
    """
    if not run_directories:
        raise ProblemError(Problem("no-runs", "a report needs at least one run directory", "report"))
    runs = [read_run(Path(directory)) for directory in run_directories]
    views = [
        view(run, label, f"run-{index}") for index, (run, label) in enumerate(zip(runs, labels(runs), strict=True), 1)
    ]
    comparison = compare(views) if len(views) > 1 else None
    return write_page(TEMPLATE, out, views=views, comparison=comparison)


def labels(runs: Sequence[Run]) -> list[str]:
    """The runs' names; with the directory's name where two runs share one, and a number where that is shared too."""
    names = [run.name for run in runs]
    unique = [
        name if names.count(name) == 1 else f"{name} / {run.path.resolve().name}"
        for name, run in zip(names, runs, strict=True)
    ]
    return [name if unique.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(unique, start=1)]
