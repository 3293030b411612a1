"""`penstock report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.hooks.registry import Registry
from penstock.run.directory import RunDirectory, stage


@click.command()
@click.argument("run_paths", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="File to write (default: report.html in the first run).")
@output.json_option
@click.pass_obj
def report(registry: Registry, run_paths: tuple[Path, ...], out: Path | None, as_json: bool) -> dict[str, Any]:
    """Write one self-contained HTML page about RUN, or comparing several runs."""
    target = write_report([RunDirectory.open(path) for path in run_paths], out)
    result = {"report": str(target), "bytes": target.stat().st_size}
    output.print_result(result, as_json, lambda: str(target))
    return result


def write_report(runs: Sequence[RunDirectory], out: Path | None = None) -> Path:
    """Writes the page about one run or several to `out`, or to report.html in the first run; returns its path.

    Warns about each record that is damaged or holds an impossible value.
    """
    from penstock.report.data import read_run
    from penstock.report.page import render_runs

    target = out or runs[0].path / "report.html"
    with stage(runs[0], "report"):
        found = [read_run(run.path) for run in runs]
        for problem in (problem for run in found for problem in run.problems):
            output.warn(str(problem))
        render_runs(found, target)
    return target
