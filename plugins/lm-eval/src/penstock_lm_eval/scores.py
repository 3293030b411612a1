"""What a question is worth by the harness's own rules, as numbers, and the harness's metrics of such numbers.

A task of the harness scores a question with a value for each metric and filter, and an aggregation makes a figure of
all values: the mean of 0 and 1, or the perplexity of pairs of nats and words. Here each metric and filter has two
columns: a value, and a weight, which is 1, the second number of a pair, or 0 where the question does not have the
metric. What is no number, such as a reference and a text for BLEU, is kept aside, and the weight says so.

Shape suffixes: N questions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from lm_eval.api import metrics

from penstock.hooks.contracts import Array, Estimate
from penstock.hooks.problems import Problem, ProblemError

TASK = "task"
"""The column that says by number which task of a group a question belongs to."""
ACCURACY = "acc,none"
WEIGHT = "/weight"
KEPT = -1.0
"""The weight of a value that is no number: its column has the beginning of the value's SHA-256."""

Kept: TypeAlias = dict[float, Any]
Figures: TypeAlias = dict[str, float]


def columns_of(tasks: Mapping[str, Any]) -> list[str]:
    """`metric,filter` for every metric and filter of the tasks."""
    return list(
        dict.fromkeys(
            f"{metric},{each.name}"
            for task in tasks.values()
            for each in task._filters
            for metric in task.aggregation()
        )
    )


def values_of(task: Any, instances: Sequence[Any]) -> dict[str, Any]:
    """The value of each metric and filter, by the harness's filters and its scoring; the instances have answers."""
    for each in task._filters:
        each.apply(instances)
    doc = instances[0].doc
    return {
        f"{metric},{each.name}": value
        for each in task._filters
        for metric, value in task.process_results(
            doc, [instance.filtered_resps[each.name] for instance in instances]
        ).items()
    }


def sample_of(
    number: int, task: Any, values: Mapping[str, Any], columns: Sequence[str], kept: Kept
) -> dict[str, float]:
    """One sample: the values of a question in the columns of all tasks. Raises `ProblemError` for a metric that the
    task did not announce."""
    if unknown := [name for name in values if name not in columns]:
        what = f"the task scores {', '.join(unknown)}, which are not in its metric_list"
        raise ProblemError(Problem("bad-task", what, "--task", "list the metrics in the task's metric_list"))
    sample = {TASK: float(number)}
    for column in columns:
        pair = (0.0, 0.0)
        if column in values:
            pair = _pair(values[column], is_ratio(task, column), kept)
        sample[column], sample[column + WEIGHT] = pair
    return sample


def _pair(value: Any, ratio: bool, kept: Kept) -> tuple[float, float]:
    numbers = value if ratio else (value, 1.0)
    if all(isinstance(each, bool | int | float | np.number) and math.isfinite(each) for each in numbers):
        return float(numbers[0]), float(numbers[1])
    digest = float(int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:6], "big"))
    kept[digest] = value
    return digest, KEPT


def confidence_of(instances: Sequence[Any]) -> float:
    """The probability that a model gives its own choice, among the choices; the instances of a question have answers,
    and those that ask for a choice without the question come last."""
    asked = [each.resps[0][0] for each in instances if each.args[0]]
    share_C = np.exp(np.array(asked) - max(asked))
    return float(1 / share_C.sum())


def is_ratio(task: Any, column: str) -> bool:
    """Whether a metric is of sums of pairs, such as nats and words."""
    return task.aggregation().get(metric_of(column)) in (metrics.bits_per_byte, metrics.weighted_perplexity)


def estimates_of(task: Any, scores: Mapping[str, Array], columns: Sequence[str]) -> dict[str, Estimate]:
    """How metrics come from the columns, by column, for those that are means, ratios of sums or exp of one."""
    known = {
        metrics.mean: Estimate("", scale=1.0),
        metrics.perplexity: Estimate("", scale=-1.0, exponential=True),
        metrics.weighted_perplexity: Estimate("", scale=-1.0, exponential=True),
        metrics.bits_per_byte: Estimate("", scale=-1.0 / math.log(2)),
    }
    estimates = {}
    for column in columns:
        kind, weight_N = known.get(task.aggregation().get(metric_of(column))), np.asarray(scores[column + WEIGHT])
        if kind is not None and (weight_N >= 0).all():
            weight = None if (weight_N == 1).all() else column + WEIGHT
            estimates[column] = replace(kind, total=column, weight=weight)
    return estimates


def figures_of(task: Any, scores: Mapping[str, Array], columns: Sequence[str], kept: Kept) -> Figures:
    """The harness's figures of the samples of one task, by column."""
    aggregations = task.aggregation()
    figures: Figures = {}
    for column in columns:
        weight_N = np.asarray(scores[column + WEIGHT])
        given_N = weight_N != 0
        aggregation = aggregations.get(metric_of(column))
        if aggregation is not None and given_N.any():
            values = _values(np.asarray(scores[column])[given_N], weight_N[given_N], is_ratio(task, column), kept)
            figures[column] = float(aggregation(values))
    return figures


def _values(value_N: Any, weight_N: Any, ratio: bool, kept: Kept) -> list[Any]:
    if (weight_N == KEPT).any():
        return [kept[value] if weight == KEPT else value for value, weight in zip(value_N, weight_N, strict=True)]
    return list(zip(value_N.tolist(), weight_N.tolist(), strict=True)) if ratio else value_N.tolist()


def group_figures(group: Any, figures: Mapping[str, Figures], sizes: Mapping[str, int]) -> Figures:
    """The figures of a group by column: means over its tasks by the harness's function, weighted as its YAML says."""
    columns = list(dict.fromkeys(column for each in figures.values() for column in each))
    combined: Figures = {}
    for asked in group.aggregate_metric_list:
        for column in columns:
            metric, _, filtered = column.partition(",")
            if metric == asked.metric and (asked.filter_list is None or filtered in asked.filter_list):
                have = [name for name in figures if column in figures[name]]
                values, counts = [figures[name][column] for name in have], [sizes[name] for name in have]
                combined[column] = float(metrics.aggregate_subtask_metrics(values, counts, asked.weight_by_size))
    return combined


def metric_of(column: str) -> str:
    return column.partition(",")[0]
