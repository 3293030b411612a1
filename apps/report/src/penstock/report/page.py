"""The report: runs as one page, one section per run, with a comparison on top if there are several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.hooks.problems import Problem, ProblemError
from penstock.pages.page import write_page
from penstock.report.compare import compare
from penstock.report.data import Run, read_run
from penstock.report.labels import labels
from penstock.report.view import view

TEMPLATE = Path(__file__).with_name("runs.html.j2")


def render_report(run_directories: Sequence[Path], out: Path) -> Path:
    """Atomically writes the report about the runs to `out`, and returns `out`.

    One run gets a page; several get a comparison on top. The same runs give the same bytes. Raises `ProblemError`
    if a directory is not a run; missing stages and damaged files are reported on the page instead.
    """
    if not run_directories:
        raise ProblemError(Problem("no-runs", "a report needs at least one run directory", "report"))
    return render_runs([read_run(Path(directory)) for directory in run_directories], out)


def render_runs(runs: Sequence[Run], out: Path) -> Path:
    """`render_report` of runs that are already read."""
    views = [
        view(run, label, f"run-{index}") for index, (run, label) in enumerate(zip(runs, labels(runs), strict=True), 1)
    ]
    comparison = compare(views) if len(views) > 1 else None
    return write_page(TEMPLATE, out, views=views, comparison=comparison)
