"""The figures of tasks for a loaded model; of a run, its baselines, samples and speed too."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from penstock.eval_suite import precision
from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.intervals import intervals_of
from penstock.eval_suite.runner import Prepared
from penstock.evaluate.evaluation import (
    EarlierTask,
    PreparedTask,
    baselines,
    figure_of,
    heldout_text,
    performance,
    sample_starts,
    samples,
)
from penstock.evaluate.options import Dtype
from penstock.evaluate.progress import TaskProgress
from penstock.evaluate.provenance import Conditions
from penstock.evaluate.questions import reliability_of, worst_of
from penstock.hooks.contracts import Interval, LanguageModel
from penstock.hooks.problems import Problem, ProblemError
from penstock.run.records.evaluation import Baselines, Evaluation, TaskFigures
from penstock.train.restore import Restored

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Measurement:
    """Tasks, and how a model answers them. `versions` are those of the tasks; `progress` receives the name of each
    task, and the number of requests done and in total."""

    tasks: Mapping[str, PreparedTask]
    conditions: Conditions
    answers: AnswerStore
    versions: Mapping[str, str]
    progress: TaskProgress

    def figures(self, model: LanguageModel) -> dict[str, TaskFigures]:
        """The figures of each task. What is in `answers` is not computed again."""
        return {name: self._figures(name, task, model) for name, task in self.tasks.items()}

    def _figures(self, name: str, task: PreparedTask, model: LanguageModel) -> TaskFigures:
        version = self.versions.get(name)
        if isinstance(task, EarlierTask):
            result = task.run(model)
            return TaskFigures(dict(result.metrics), dict(result.details), dict(result.intervals), version)
        result = task.run(
            model,
            self.answers,
            batch_size=self.conditions.batch_size,
            batch_invariant=self.conditions.batch_invariant,
            whole=self.conditions.whole,
            progress=partial(self.progress, name),
        )
        return TaskFigures(
            dict(result.metrics),
            dict(result.details),
            dict(result.intervals),
            version,
            groups={group: dict(metrics) for group, metrics in result.groups.items()} or None,
            group_intervals=group_intervals(task, self.answers) or None,
            worst=worst_of(task, self.answers) or None,
            reliability=reliability_of(task, self.answers),
            provenance=self.conditions.of_task(task, model),
        )


def evaluate_model(model: LanguageModel, name: str, measurement: Measurement) -> Evaluation:
    """What is known of a model that no run made. `name` stands for its checkpoint."""
    begun = time.perf_counter()
    found = measurement.figures(model)
    return Evaluation(
        checkpoint=name, tasks=found, measured=sorted(found), seconds=round(time.perf_counter() - begun, 3)
    )


def evaluate_restored(restored: Restored, measurement: Measurement, heldout: np.ndarray | None) -> Evaluation:
    """What `evaluation.json` holds. Without `heldout`, the run's held-out tokens, there are no baselines."""
    begun = time.perf_counter()
    starts = sample_starts(restored)
    speed = performance(restored)  # before anything else, so that peak memory is the model's
    found = evaluate_model(restored.model, restored.checkpoint_name, measurement)
    return replace(
        found,
        heldout_bits_per_byte=figure_of(found.tasks),
        baselines=Baselines() if heldout is None else baselines(restored, heldout),
        samples=samples(restored, starts),
        performance=speed,
        seconds=round(time.perf_counter() - begun, 3),
        heldout_text=None if heldout is None else heldout_text(restored.tokenizer, heldout),
    )


@contextmanager
def computing_in(model: LanguageModel, dtype: Dtype) -> Iterator[None]:
    """Makes a model compute in a dtype; raises `ProblemError` for one that cannot."""
    if hasattr(model, "compute_dtype"):
        with precision.computing_in(model, DTYPES[dtype]):
            yield
        return
    if dtype != "fp32":  # contract 1 of architectures did not require it
        what = f"{type(model).__name__} computes only in fp32"
        raise ProblemError(Problem("unsupported", what, "--dtype", "use fp32"))
    yield


def group_intervals(task: Prepared, answers: AnswerStore) -> dict[str, dict[str, Interval]]:
    """The intervals of each group's metrics."""
    found: dict[str, dict[str, Interval]] = {}
    scored = task.scored(answers)
    estimates = task.task.total(scored.scores, task.context).estimates
    for group, scores in scored.by_group():
        intervals = intervals_of(task.metrics_of, scores, estimates=estimates, seed=task.context.seed).found
        if intervals:
            found[group] = task.named(intervals)
    return found
