"""Runs a task: checks everything that needs no model first, then the model answers batch by batch.

    prepared = prepare(task, context)                              # no model yet; raises problems of the data
    prepared.run(model, AnswerStore.in_folder(folder, weights))    # a second run computes nothing

Rows are sorted by length, longest first, so that padding is small and a lack of memory shows at once. The batches
depend only on the task and its context.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.intervals import intervals_of
from penstock.eval_suite.likelihood import Progress, evaluating
from penstock.eval_suite.passes import compute
from penstock.eval_suite.rows import Row, answer_of, is_cut, rows_of
from penstock.hooks.contracts import Answer, Generate, Item, LanguageModel, Request, Task, TaskContext, TaskResult
from penstock.hooks.problems import Problem, ProblemError

Value = TypeVar("Value")

BATCH_SIZE = 16
"""Rows per batch: the default of `token_nll`, so that both give the same bits for a stream."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An item, and its requests with the rows of each."""

    item: Item
    requests: Sequence[tuple[Request, Sequence[Row]]]


@dataclass(frozen=True, slots=True)
class Answered:
    """An item with what the model answered to each of its requests, and what the answers are worth: one mapping for
    each sample."""

    item: Item
    requests: Sequence[Request]
    answers: Sequence[Answer]
    samples: Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Scored:
    """One array [N] for each name of the scores, one number a sample; and the group of each sample, empty for none."""

    scores: Mapping[str, NDArray[np.float64]]
    group_N: Sequence[str]

    def by_group(self) -> Iterator[tuple[str, Mapping[str, NDArray[np.float64]]]]:
        """The scores of each group, in the order of the items; nothing where there are fewer than two."""
        names = list(dict.fromkeys(self.group_N))
        for name in names if len(names) > 1 else ():
            inside_N = np.array([group == name for group in self.group_N])
            yield name, {column: value_N[inside_N] for column, value_N in self.scores.items()}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task with all of its requests. `limited` is True if the context's limit left items out."""

    task: Task
    context: TaskContext
    asked: Sequence[Asked]
    limited: bool

    def run(
        self,
        model: LanguageModel,
        answers: AnswerStore | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> TaskResult:
        """The metrics of a model, with their intervals over samples.

        Answers in `answers` are not computed again, and new ones are stored there. `progress(done, total)` is called
        with numbers of rows, first with those already stored. Batches do not change a metric beyond rounding.
        """
        begun = time.perf_counter()
        answers = AnswerStore() if answers is None else answers
        with evaluating(model):
            self._compute(model, answers, batch_size, progress)
        scored = self.scored(answers)
        result = self.task.total(scored.scores, self.context)
        intervals = intervals_of(
            self.metrics_of, scored.scores, groups=scored.group_N, estimates=result.estimates, seed=self.context.seed
        )
        cut = sum(is_cut(request, self.context) for each in self.asked for request, _ in each.requests)
        measured = {"items": len(self.asked), "cut_requests": cut, "seconds": time.perf_counter() - begun}
        no_interval = {"no_interval": self.named(intervals.missing)} if intervals.missing else {}
        return TaskResult(
            self.named(result.metrics),
            {**result.details, **measured, **no_interval},
            self.named(intervals.found),
            {group: self.named(self.metrics_of(scores)) for group, scores in scored.by_group()},
        )

    def answered(self, answers: AnswerStore) -> Iterator[Answered]:
        """Every item, from the answers that a run has stored."""
        for each in self.asked:
            given = [
                answer_of(request, [answers[answers.key(row)] for row in rows], self.context.tokenizer)
                for request, rows in each.requests
            ]
            samples = self.task.score(each.item, given, self.context)
            yield Answered(each.item, [request for request, _ in each.requests], given, samples)

    def scored(self, answers: AnswerStore) -> Scored:
        """What intervals and comparisons are made of, from the answers that a run has stored."""
        samples: list[Mapping[str, float]] = []
        group_N: list[str] = []
        for each in self.answered(answers):
            samples += each.samples
            group_N += [each.item.group] * len(each.samples)
        names = samples[0]
        return Scored({name: np.array([sample[name] for sample in samples], np.float64) for name in names}, group_N)

    def _compute(self, model: LanguageModel, answers: AnswerStore, batch_size: int, progress: Progress | None) -> None:
        rows = {answers.key(row): row for each in self.asked for _, rows in each.requests for row in rows}
        done = sum(key in answers for key in rows)
        _tell(progress, done, len(rows))
        for batch in _batches(rows, batch_size):
            missing = [key for key in batch if key not in answers]
            if missing:
                outputs = compute(model, [rows[key] for key in missing], self.context.tokenizer)
                answers.add(dict(zip(missing, outputs, strict=True)))
                done += len(missing)
                _tell(progress, done, len(rows))

    def metrics_of(self, scores: Mapping[str, NDArray[np.float64]]) -> Mapping[str, float]:
        return self.task.total(scores, self.context).metrics

    def named(self, by_metric: Mapping[str, Value]) -> dict[str, Value]:
        """By the metrics' names; those of a part name the part."""
        if not self.limited:
            return dict(by_metric)
        part = f"first-{len(self.asked)}"
        return {f"{name}{'-' if '@' in name else '@'}{part}": value for name, value in by_metric.items()}


def prepare(task: Task, context: TaskContext) -> Prepared:
    """All requests of the task; raises `ProblemError` for problems of the task or its data, and for no items."""
    read = iter(task.items(context))
    items = list(itertools.islice(read, context.limit))
    if not items:
        raise ProblemError(Problem("no-items", "the task has no items", type(task).__name__, "check its data"))
    limited = context.limit is not None and next(read, None) is not None
    return Prepared(task, context, [_asked(task, item, context) for item in items], limited)


def run_task(task: Task, model: LanguageModel, context: TaskContext, **options: Any) -> TaskResult:
    """`prepare`, then `Prepared.run` with the same options."""
    return prepare(task, context).run(model, **options)


def _asked(task: Task, item: Item, context: TaskContext) -> Asked:
    requests = task.requests(item, context)
    return Asked(item, [(request, rows_of(request, context, f"item '{item.id}'")) for request in requests])


def _batches(rows: Mapping[str, Row], batch_size: int) -> Iterator[Sequence[str]]:
    """Keys of rows that are computed together: of the same kind, and for prompts, of the same length."""

    def group(key: str) -> tuple[str, int, int]:
        row = rows[key]
        return (row.kind.__name__, row.new_tokens, len(row.token_S) if row.kind is Generate else 0)

    ordered = sorted(rows, key=lambda key: (group(key), -len(rows[key].token_S)))
    for _, members in itertools.groupby(ordered, key=group):
        while batch := list(itertools.islice(members, batch_size)):
            yield batch


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
