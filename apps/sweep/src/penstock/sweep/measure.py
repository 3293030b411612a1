"""What only a trained model shows, measured alone: latency, throughput, memory and scores of tasks.

Run it in a process of its own while nothing else runs: the peak memory is that of the process, and times of a busy
machine are times of its other work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.eval_suite.performance import measure_performance
from penstock.eval_suite.runner import run_task
from penstock.evaluate.evaluation import heldout_tokens, task_context
from penstock.hooks.registry import Registry
from penstock.run.records.record import Record
from penstock.train.restore import restore_run

PROMPTS = (128, 512)
"""Tokens of the prompts whose latency is measured."""
REPEATS = 10
"""Passes behind each median: single passes of small models differ by a tenth on two shared cores."""


@dataclass(frozen=True, slots=True)
class Measured(Record):
    """Seconds from a prompt of so many tokens to the logits of the next, at batch 1 (median), generated tokens per
    second after the first prompt, peak bytes of the process, and the metrics of tasks under their own names."""

    latency_128: float
    latency_512: float
    tokens_per_second: float
    peak_memory: int
    tasks: dict[str, float] = field(default_factory=lambda: dict[str, float]())


def measure(run: Path, registry: Registry, tasks: Sequence[str] = ()) -> Measured:
    """Measures a finished run. Speed comes first, because scoring tasks would raise the peak memory."""
    restored = restore_run(run, registry)
    short, long = (
        measure_performance(restored.model, prompt_tokens=tokens, new_tokens=16, batch_sizes=(1,), repeats=REPEATS)
        for tokens in PROMPTS
    )
    context = task_context(restored.config, restored.tokenizer, heldout_tokens(restored.dataset))
    scores: dict[str, float] = {}
    for name in tasks:
        result = run_task(registry.build("task", name), restored.model, context)
        scores |= {metric: float(value) for metric, value in result.metrics.items() if value is not None}
    return Measured(
        latency_128=_batch(short)["prefill_seconds"],
        latency_512=_batch(long)["prefill_seconds"],
        tokens_per_second=_batch(short)["decode_tokens_per_second"],
        peak_memory=_batch(long).get("peak_cuda_bytes") or long["peak_rss_bytes"],
        tasks=scores,
    )


def measure_job(argument: dict[str, Any]) -> dict[str, Any]:
    """`measure` as a launcher's job: `run` is the run directory and `tasks` the names of tasks."""
    return measure(Path(argument["run"]), Registry.discover(), argument.get("tasks", ())).to_json()


def _batch(performance: dict[str, Any]) -> dict[str, Any]:
    return performance["batches"][0]
