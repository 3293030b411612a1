"""`penstock evaluate` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.cli import output
from penstock.cli.choices import choose
from penstock.hooks.registry import Registry
from penstock.run.directory import RunDirectory, stage, write_json

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
@output.json_option
@click.pass_obj
def evaluate(registry: Registry, run_path: Path, tasks: tuple[str, ...], as_json: bool) -> dict[str, Any]:
    """Measure RUN's newest checkpoint: its tasks, baselines on the same bytes, samples and speed."""
    from penstock.evaluate.evaluation import evaluate_run, with_earlier_tasks
    from penstock.train.restore import restore

    run = RunDirectory.open(run_path)
    chosen = [choose(registry, "task", text) for text in tasks]
    with run.lock(), stage(run, "evaluate"):
        restored = restore(run_path, registry)
        result = evaluate_run(restored, chosen or restored.config.evaluate.tasks)
        result = with_earlier_tasks(result, run.path / "evaluation.json")
        write_json(run.path / "evaluation.json", result)
    output.print_result(result, as_json, lambda: _evaluation_text(result))
    return result


def _evaluation_text(result: dict[str, Any]) -> str:
    rows = [(name, f"{value:.4f}") for task in result["tasks"].values() for name, value in task["metrics"].items()]
    rows += [
        (f"held-out text by {name.removesuffix('_bits_per_byte')}", f"{value:.4f}")
        for name, value in result["baselines"].items()
    ]
    speed = result["performance"]
    rows += [
        ("generation, tokens/s", f"{speed['tokens_per_second']:.1f}"),
        ("first token, ms", f"{speed['prefill_ms']:.1f}"),
    ]
    samples = "\n\n".join(
        f"--- {sample['prompt']!r}\n{sample['prompt']}{sample['text']}" for sample in result["samples"]
    )
    return f"{output.table((result['checkpoint'], 'value'), rows)}\n\n{samples}"
