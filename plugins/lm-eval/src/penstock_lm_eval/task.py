"""`lm-eval`: tasks of lm-evaluation-harness as tasks of Penstock.

Prompts, filters, scores and aggregations are the harness's; batches, stored answers, resumption and intervals are the
runner's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock.hooks.contracts import Answer, Array, Estimate, Item, Request, TaskContext, TaskResult
from penstock.hooks.inputs import expanded
from penstock_lm_eval.asking import requests_of, results_of
from penstock_lm_eval.harness import Loaded, harness_version, load
from penstock_lm_eval.questions import questions, shots_of
from penstock_lm_eval.scores import (
    ACCURACY,
    TASK,
    Figures,
    Kept,
    columns_of,
    confidence_of,
    estimates_of,
    figures_of,
    group_figures,
    metric_of,
    sample_of,
    values_of,
)


class LmEval:
    """A task of the harness, a group of tasks with the group's own metrics, or all tasks under a tag.

    Reading its items raises `ProblemError` for an unknown task, for data that cannot be loaded, for a document
    without a right answer, and for examples that do not fit.
    """

    def __init__(self, name: str, include_path: str | Path | None = None, dataset: str | Path | None = None) -> None:
        self._name = name
        self._include_path = None if include_path is None else expanded(include_path)
        self._dataset = None if dataset is None else expanded(dataset)
        self._loaded_from: dict[Path | None, Loaded] = {}
        self._shots_in: dict[Any, dict[str, int]] = {}
        self._kept: Kept = {}

    def items(self, context: TaskContext) -> Iterator[Item]:
        loaded = self._loaded(context)
        for question in questions(loaded.tasks, self._shots(context), context):
            several = len(loaded.tasks) > 1
            identity = f"{question.task}/{question.number}" if several else str(question.number)
            yield Item(identity, question, group=question.task if several and loaded.group else "")

    def requests(self, item: Item, context: TaskContext) -> Sequence[Request]:
        return item.document.requests(context)

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        tasks = self._loaded(context).tasks
        task, waiting = tasks[item.document.task], iter(answers)
        instances = [copy.copy(instance) for instance in item.document.instances]
        for instance in instances:
            given = [next(waiting) for _ in requests_of(instance, context)]
            instance.resps, instance.filtered_resps = results_of(instance, given), {}
        values, columns = values_of(task, instances), columns_of(tasks)
        sample = sample_of([*tasks].index(item.document.task), task, values, columns, self._kept)
        if ACCURACY in columns and all(each.OUTPUT_TYPE == "multiple_choice" for each in tasks.values()):
            sample |= {"right": sample[ACCURACY], "confidence": confidence_of(instances)}
        return [sample]

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        loaded, shots = self._loaded(context), self._shots(context)
        columns, task_N = columns_of(loaded.tasks), np.asarray(scores[TASK])
        figures, sizes = dict[str, Figures](), dict[str, int]()
        for number, (name, task) in enumerate(loaded.tasks.items()):
            mine_N = task_N == number
            own = {column: np.asarray(value_N)[mine_N] for column, value_N in scores.items()}
            figures[name], sizes[name] = figures_of(task, own, columns, self._kept), int(mine_N.sum())
        shown = figures if loaded.group is None else {loaded.name: group_figures(loaded.group, figures, sizes)}
        return TaskResult(
            {_metric(name, column, shots): value for name, each in shown.items() for column, value in each.items()},
            {"lm_eval": harness_version(), "tasks": _details(loaded, shots)},
            estimates={
                _metric(name, column, shots): estimate
                for name, each in self._estimates(loaded, scores, columns).items()
                for column, estimate in each.items()
            },
        )

    def _estimates(
        self, loaded: Loaded, scores: Mapping[str, Array], columns: Sequence[str]
    ) -> dict[str, dict[str, Estimate]]:
        """By task or group: a single task, or a group all of whose questions count alike."""
        tasks = [*loaded.tasks.values()]
        each = [estimates_of(task, scores, columns) for task in tasks]
        alike = {
            column: each[0][column] for column in each[0] if all(one.get(column) == each[0][column] for one in each)
        }
        if loaded.group is None:
            return {name: alike for name in loaded.tasks if len(tasks) == 1}
        pooled = {asked.metric for asked in loaded.group.aggregate_metric_list if asked.weight_by_size}
        means = {column: kind for column, kind in alike.items() if kind.scale == 1 and not kind.exponential}
        return {loaded.name: {column: kind for column, kind in means.items() if metric_of(column) in pooled}}

    def _loaded(self, context: TaskContext) -> Loaded:
        if context.data not in self._loaded_from:
            self._loaded_from[context.data] = load(self._name, self._include_path, self._dataset, context.data)
        return self._loaded_from[context.data]

    def _shots(self, context: TaskContext) -> dict[str, int]:
        key = (context.shots, context.fit_shots, context.limit, context.seed, context.sequence_length, context.data)
        if key not in self._shots_in:
            self._shots_in[key] = shots_of(self._loaded(context).tasks, context)
        return self._shots_in[key]


def _metric(name: str, column: str, shots: Mapping[str, int]) -> str:
    """Such as `arc_easy.acc@lm-eval-0.4.13-0-shot`, with the name of a filter before it if there is one."""
    metric, _, filtered = column.partition(",")
    numbers = sorted({shots[name]} if name in shots else {*shots.values()})
    named = "-to-".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    prefix = "" if filtered == "none" else f"{filtered}-"
    return f"{name}.{metric}@{prefix}lm-eval-{harness_version()}-{named}-shot"


def _details(loaded: Loaded, shots: Mapping[str, int]) -> dict[str, Any]:
    """The version and the data set of each task, and its number of examples."""
    return {
        name: {
            "version": None if task.VERSION is None else str(task.VERSION),
            "dataset": str(task.DATASET_PATH),
            "shots": shots[name],
        }
        for name, task in loaded.tasks.items()
    }
