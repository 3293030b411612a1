"""`--published MODEL`: the figures that others published of a model, and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.eval_suite.published import FIGURES, beside, tasks_of
from penstock.hooks.contracts import TaskResult
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.hooks.registry import Choice, Registry
from penstock.run.records.evaluation import Evaluation, PublishedFigure

OPTION = "--published"


def require_weights(model: str, path: Path) -> None:
    """Raises `ProblemError` for a model without published figures, and if the path of its weights is not there."""
    if model not in FIGURES:
        what = f"no figures of '{model}' are known"
        raise ProblemError(Problem("bad-value", what, OPTION, did_you_mean(model, FIGURES)))
    if not path.exists():
        what = f"the weights of {model} are not here"
        fix = "give the folder of its config.json, model.safetensors and tokenizer.json, as the hub has them"
        raise ProblemError(Problem("missing-model", what, str(path), fix))


def published_tasks(model: str, tasks: Sequence[Choice], registry: Registry) -> list[Choice]:
    """The tasks that find the figures; raises `ProblemError` if others are asked for."""
    if tasks:
        what = "the published figures decide which tasks run"
        raise ProblemError(Problem("bad-value", what, "--task", f"leave it out, or leave {OPTION} out"))
    return [registry.choose("task", dict(settings), OPTION) for settings in tasks_of(model)]


def published_options(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the length that the figures are of, and with bits that no batch changes; raises
    `ProblemError` for a limit."""
    if options.get("limit") is not None:
        what = "the published figures are of whole data sets"
        raise ProblemError(Problem("bad-value", what, "--limit", f"leave it out, or leave {OPTION} out"))
    length = max(each.sequence_length for each in FIGURES[model])
    defaults = {"sequence_length": length, "batch_invariant": True}
    return {**options, **{name: value for name, value in defaults.items() if options.get(name) is None}}


def with_published(model: str, result: Evaluation) -> Evaluation:
    """The result with a row for each published figure."""
    ours = [
        TaskResult({name: value for name, value in task.metrics.items() if value is not None})
        for task in result.tasks.values()
    ]
    rows = [
        PublishedFigure(
            row.published.metric, row.published.value, row.ours, row.difference, row.agrees, row.published.source
        )
        for row in beside(model, ours)
    ]
    return replace(result, published=rows)
