"""What only a trained model shows, measured alone: latency, throughput, memory and scores of tasks.

Run it in a process of its own while nothing else runs: the peak memory is that of the process, and times of a busy
machine are times of its other work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from penstock.eval_suite.performance import measure_performance
from penstock.evaluate.evaluation import heldout_tokens, prepare_tasks, task_context
from penstock.hooks.discovery import Selection
from penstock.hooks.problems import failed
from penstock.hooks.registry import Registry
from penstock.run.directory import RunDirectory, processor
from penstock.run.records.sweep import MeasuredRun
from penstock.train.restore import restore_run

PROMPTS = (128, 512)
"""Tokens of the prompts whose latency is measured."""
REPEATS = 10
"""Passes behind each median: single passes of small models differ by a tenth on two shared cores."""


def measure(run: Path, registry: Registry, tasks: Sequence[Mapping[str, Any]] = ()) -> MeasuredRun:
    """Measures a finished run. Speed comes first, because scoring tasks would raise the peak memory. Raises
    `ProblemError` for a run that has not reached its end."""
    status = RunDirectory(run).status()
    if status.state != "finished":
        what = f"the run is at step {status.step or 0} of {status.steps or 0}, so its model is not the trained one"
        raise failed("unfinished-run", what, str(run), f"train it to its end with --resume {run}")
    restored = restore_run(run, registry)
    short, long = (
        measure_performance(restored.model, prompt_tokens=tokens, new_tokens=16, batch_sizes=(1,), repeats=REPEATS)
        for tokens in PROMPTS
    )
    context = task_context(restored.config, restored.tokenizer, heldout_tokens(restored.dataset))
    scores: dict[str, float] = {}
    for task in prepare_tasks([registry.choose("task", each, "tasks") for each in tasks], context).values():
        metrics = task.run(restored.model).metrics
        scores |= {name: float(value) for name, value in metrics.items() if value is not None}
    return MeasuredRun(
        latency_128=_batch(short)["prefill_seconds"],
        latency_512=_batch(long)["prefill_seconds"],
        tokens_per_second=_batch(short)["decode_tokens_per_second"],
        peak_memory=_batch(long).get("peak_cuda_bytes") or long["peak_rss_bytes"],
        machine=f"{processor()}, {torch.get_num_threads()} threads",
        tasks=scores,
        asked=[json.dumps(each, sort_keys=True) for each in tasks],
    )


def measure_job(argument: dict[str, Any]) -> dict[str, Any]:
    """`measure` as a launcher's job: `run` is the run directory, `tasks` the tasks as a config writes them, and
    `selection` says which plugins are loaded."""
    registry = Registry.discover(Selection.from_json(argument["selection"]))
    return measure(Path(argument["run"]), registry, argument["tasks"]).to_json()


def _batch(performance: dict[str, Any]) -> dict[str, Any]:
    return performance["batches"][0]
