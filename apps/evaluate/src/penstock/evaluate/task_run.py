"""What `penstock evaluate` measures of an encoder: the figures of its own task on the held-out examples."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.eval_suite.intervals import Scores, intervals_of
from penstock.evaluate.options import HOW_ANSWERED
from penstock.hooks.architecture import require_next_token
from penstock.hooks.contracts import Estimate
from penstock.hooks.registry import Choice
from penstock.run.checks import OWN_TASK
from penstock.run.config import RunConfig
from penstock.run.records.evaluation import Evaluation, TaskFigures
from penstock.train.restore import Restored
from penstock.train.scoring import TaskScores, ratio, scores_of

OF_TASKS = ("shots", "limit", *HOW_ANSWERED)
"""Options that say how tasks are asked."""


def require_own_task(config: RunConfig, tasks: Sequence[Choice], options: Mapping[str, Any]) -> None:
    """Raises `ProblemError` for tasks and options that ask a model for the next token."""
    named = {"--task": tasks, "evaluate.tasks": [each for each in config.evaluate.tasks if _name(each) != OWN_TASK]}
    for where, each in ((where, each) for where, chosen in named.items() for each in chosen):
        require_next_token(config.model, f"the task '{_name(each)}'", where)
    for name in OF_TASKS:
        if options.get(name) is not None:
            require_next_token(config.model, "an option of tasks", f"--{name.replace('_', '-')}")


def _name(task: Choice) -> str:
    return task.entry.component.name


def evaluate_task(restored: Restored, seed: int) -> Evaluation:
    """The figures of the run's objective on all held-out examples, with intervals over examples. There are no samples,
    no speed of generation and no baselines of text."""
    begun = time.perf_counter()
    scores = scores_of(restored)
    return Evaluation(
        checkpoint=restored.checkpoint_name,
        tasks={scores.task: task_figures(scores, seed)},
        measured=[scores.task],
        seconds=round(time.perf_counter() - begun, 3),
    )


def task_figures(scores: TaskScores, seed: int) -> TaskFigures:
    """Each figure as `TASK.FIGURE`, with its interval."""
    columns = {f"{name}/values": values for name, values in scores.values.items()}
    columns |= {f"{name}/weights": weights for name, weights in scores.weights.items()}

    def metrics_of(drawn: Scores) -> dict[str, float]:
        return {f"{scores.task}.{name}": ratio(drawn[f"{name}/values"], drawn[f"{name}/weights"]) for name in names}

    names = list(scores.values)
    details = {"examples": scores.examples, "files": dict(scores.files)}
    if scores.majority is not None:
        details["majority"] = scores.majority
    estimates = {f"{scores.task}.{name}": Estimate(f"{name}/values", f"{name}/weights") for name in names}
    intervals = intervals_of(metrics_of, columns, estimates=estimates, seed=seed)
    return TaskFigures({**metrics_of(columns)}, details, dict(intervals.found))
