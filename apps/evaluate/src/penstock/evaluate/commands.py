"""`penstock evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.cli.choices import choose
from penstock.hooks.contracts import Interval
from penstock.hooks.registry import Choice, Registry
from penstock.run.directory import RunDirectory, stage
from penstock.run.records.evaluation import Evaluation
from penstock.run.records.record import write_record

run_argument = click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))


@click.command()
@run_argument
@click.option(
    "--task",
    "tasks",
    multiple=True,
    help="Task to run instead of the config's: NAME or {use: NAME, ...}, such as "
    "'{use: wikitext2, path: wiki.test.raw}'. Repeatable.",
)
@click.option(
    "--shots",
    type=click.IntRange(min=0),
    help="Few-shot examples before each question (default: the task's own number).",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Evaluate only the first N items of each task; metric names include the limit.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the tasks' random draws.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of local datasets, such as lambada/lambada_test.jsonl and wikitext2/wiki.test.raw.",
)
@output.json_option
@click.pass_obj
def evaluate(
    registry: Registry, run_path: Path, tasks: tuple[str, ...], as_json: bool, **options: Any
) -> dict[str, Any]:
    """Measure RUN's newest checkpoint: its tasks, baselines on the same bytes, samples and speed.

    Problems with tasks and their data are reported before the model is loaded. Answers are cached in RUN/answers, so a
    killed or repeated evaluation computes only what is missing.
    """
    chosen = [choose(registry, "task", text) for text in tasks]
    result = evaluate_run(RunDirectory.open(run_path), registry, chosen, **options)
    output.print_result(result, as_json, lambda: evaluation_text(result))
    return result.to_json()


def evaluate_run(run: RunDirectory, registry: Registry, tasks: Sequence[Choice] = (), **options: Any) -> Evaluation:
    """Evaluates the newest checkpoint on `tasks`, or on the config's if none are given, and keeps the result in the run
    directory. `options` are those of `task_context`."""
    from penstock.evaluate.evaluation import (
        evaluate_restored,
        prepare_tasks,
        task_context,
        versions_of,
        with_earlier_tasks,
    )
    from penstock.train.compose import open_dataset
    from penstock.train.progress import StageProgress
    from penstock.train.restore import restore

    with run.lock(), stage(run, "evaluate"):
        config = run.config(registry)
        context = task_context(config, open_dataset(run.runs, config, verify=False), **options)
        chosen = tasks or config.evaluate.tasks
        prepared = prepare_tasks(chosen, context)
        restored = restore(run.path, registry)
        with StageProgress() as progress:
            result = evaluate_restored(restored, prepared, versions=versions_of(chosen), progress=progress)
        result = with_earlier_tasks(result, run.path / "evaluation.json")
        write_record(run.path / "evaluation.json", result)
    return result


def evaluation_text(result: Evaluation) -> str:
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
