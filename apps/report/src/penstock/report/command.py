"""`penstock report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.directory import RunDirectory, stage


@click.command()
@click.argument("run_paths", metavar="RUN|FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write (default: report.html in the first RUN, NAME.html of NAME.json, or FILE.html).",
)
@output.json_option
@click.pass_obj
def report(registry: Registry, run_paths: tuple[Path, ...], out: Path | None, as_json: bool) -> dict[str, Any]:
    """Write one self-contained HTML page about RUN, or comparing several runs.

    A FILE is an evaluation.json, or one of `penstock evaluate --samples`: the page shows its scores with intervals, by
    group, reliability, and the questions that the model answers worst.

    Folders that `penstock compress` wrote are printed as tables, and get a page of bytes against quality: one ledger,
    or several in one picture.
    """
    from penstock.report.compression import is_compression, ledger_text, read_compression

    ledgers = [path for path in run_paths if is_compression(path)]
    if ledgers:
        target = _write_ledgers(ledgers, run_paths, out)
    elif any(path.is_file() for path in run_paths):
        target = _write_evaluation(run_paths, out)
    else:
        target = _write_runs(run_paths, out)
    result = {"report": str(target), "bytes": target.stat().st_size}
    tables = [ledger_text(read_compression(path)) for path in ledgers]
    output.print_result(result, as_json, lambda: "\n\n".join([*tables, str(target)]))
    return result


def _write_runs(paths: Sequence[Path], out: Path | None) -> Path:
    return write_report([RunDirectory.open(path) for path in paths], out)


def _write_evaluation(paths: Sequence[Path], out: Path | None) -> Path:
    from penstock.report.evaluation import write_evaluation

    if len(paths) > 1:
        what, fix = f"{len(paths)} paths, one of them a file", "give one file, or runs"
        raise ProblemError(Problem("bad-value", what, " ".join(map(str, paths)), fix))
    return write_evaluation(paths[0], out or page_of(paths[0]))


def page_of(path: Path) -> Path:
    """Where the page of a file goes: `x.html` of `x.json`, and `x.jsonl.html` of `x.jsonl`, its samples.

    >>> page_of(Path("gpt2/evaluation.json")).name, page_of(Path("mmlu.jsonl")).name
    ('evaluation.html', 'mmlu.jsonl.html')
    """
    return path.with_suffix(".html") if path.suffix == ".json" else path.with_name(f"{path.name}.html")


def _write_ledgers(ledgers: Sequence[Path], paths: Sequence[Path], out: Path | None) -> Path:
    from penstock.report.compression import write_compressions

    if others := [path for path in paths if path not in ledgers]:
        what, fix = "a run, while others are compressions", "give runs or compressions"
        raise ProblemError([Problem("bad-value", what, str(path), fix) for path in others])
    return write_compressions(ledgers, out or ledgers[0] / "report.html")


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
