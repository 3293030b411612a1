"""`penstock evaluate` and `report`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.cli.run_directory import RunDirectory, write_json
from penstock.evaluate.choices import choose
from penstock.evaluate.records import Evaluation
from penstock.hooks.contracts import Interval
from penstock.hooks.registry import Registry

run_argument = click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))


@click.command()
@run_argument
@click.option(
    "--task",
    "tasks",
    multiple=True,
    help="NAME of a task, or {use: NAME, ...}, in place of the config's; repeatable. Such as "
    "'{use: wikitext2, path: wiki.test.raw}'.",
)
@click.option(
    "--shots", type=click.IntRange(min=0), help="Examples before each question; each task's own number otherwise."
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Only the first so many items of each task; its metrics say so."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Decides what tasks draw.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of local data sets, such as lambada/lambada_test.jsonl and wikitext2/wiki.test.raw.",
)
@output.json_option
@click.pass_obj
def evaluate(
    registry: Registry, run_path: Path, tasks: tuple[str, ...], as_json: bool, **options: Any
) -> dict[str, Any]:
    """Measure RUN's newest checkpoint: its tasks, baselines on the same bytes, samples and speed.

    Problems of tasks and their data are said before the model is loaded. An evaluation that was killed goes on where it
    was, and one that is repeated computes only what it has not kept in RUN/answers.
    """
    from penstock.evaluate.evaluation import evaluate_run, prepare_tasks, task_context, with_earlier_tasks
    from penstock.train.compose import open_dataset
    from penstock.train.progress import StageProgress
    from penstock.train.restore import restore

    run = RunDirectory.open(run_path)
    chosen = [choose(registry, "task", text) for text in tasks]
    with run.lock(), stage(run, "evaluate"):
        config = run.config(registry)
        context = task_context(config, open_dataset(run.runs, config, verify=False), **options)
        prepared = prepare_tasks(chosen or config.evaluate.tasks, context)
        restored = restore(run_path, registry)
        with StageProgress() as progress:
            result = evaluate_run(restored, prepared, progress=progress)
        result = with_earlier_tasks(result, run.path / "evaluation.json")
        write_json(run.path / "evaluation.json", result.to_json())
    output.print_result(result.to_json(), as_json, lambda: _evaluation_text(result))
    return result.to_json()


def _evaluation_text(result: Evaluation) -> str:
    rows = [
        (name, f"{value:.4f}", _interval_text(task.intervals.get(name)))
        for task in result.tasks.values()
        for name, value in task.metrics.items()
        if value is not None
    ]
    rows += [(f"held-out text by {name}", f"{value:.4f}", "") for name, value in result.baselines.named.items()]
    if speed := result.performance:
        rows += [
            ("generation, tokens/s", f"{speed.tokens_per_second:.1f}", ""),
            ("first token, ms", f"{speed.prefill_ms:.1f}", ""),
        ]
    samples = "\n\n".join(f"--- {sample.prompt!r}\n{sample.prompt}{sample.text}" for sample in result.samples)
    return f"{output.table((result.checkpoint, 'value', '95 % interval'), rows)}\n\n{samples}"


def _interval_text(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f} ({interval.samples} samples)"


@click.command()
@click.argument("run_paths", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where to write the page; report.html in the first run otherwise."
)
@output.json_option
@click.pass_obj
def report(registry: Registry, run_paths: tuple[Path, ...], out: Path | None, as_json: bool) -> dict[str, Any]:
    """Write one self-contained HTML page about RUN, or a comparison of several."""
    from penstock.evaluate.report.page import render_report

    runs = [RunDirectory.open(path) for path in run_paths]
    target = out or runs[0].path / "report.html"
    with stage(runs[0], "report"):
        render_report([run.path for run in runs], target)
    result = {"report": str(target), "bytes": target.stat().st_size}
    output.print_result(result, as_json, lambda: str(target))
    return result


@contextmanager
def stage(run: RunDirectory, name: str) -> Iterator[None]:
    """Records in the run's status how long the stage took, once it is done."""
    begun = time.perf_counter()
    yield
    run.record_stage(name, time.perf_counter() - begun)
