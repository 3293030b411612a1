"""Runs a task: checks everything that needs no model first, then the model answers batch by batch.

    prepared = prepare(task, context)                              # no model yet; raises problems of the data
    prepared.run(model, AnswerStore.in_folder(folder, weights))    # a second run computes nothing

Rows are sorted by length, longest first, so that padding is small and a lack of memory shows at once; what several
begin with is read once (`plan`). The batches depend only on the task, its context and what kind of model it is.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.examples import UsedTemplate
from penstock.eval_suite.generation import takes_padding
from penstock.eval_suite.intervals import intervals_of
from penstock.eval_suite.likelihood import Progress, batch_dependent_routers, device_of, evaluating
from penstock.eval_suite.passes import Passes, shares_beginnings
from penstock.eval_suite.plan import Batch, batches, invariant_batches
from penstock.eval_suite.rows import Row, answer_of, is_cut, rows_of
from penstock.hooks.contracts import (
    Answer,
    FollowingUp,
    Generate,
    Item,
    LanguageModel,
    Request,
    Task,
    TaskContext,
    TaskResult,
)
from penstock.hooks.problems import Problem, ProblemError

Value = TypeVar("Value")

BATCH_SIZE = 16
"""Rows per batch: the default of `token_nll`, so that both give the same bits for a stream."""

PASS_TOKENS, PASS_TOKENS_OF_GPU = 16, 1024
"""A pass more costs as much as reading so many tokens more in a pass: on a CPU the weights come from memory again, on a
GPU the kernels are launched again, for few rows."""


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
        batch_invariant: bool = False,
        whole: bool = False,
        progress: Progress | None = None,
    ) -> TaskResult:
        """The metrics of a model, with their intervals over samples.

        Answers in `answers` are not computed again, and new ones are stored there. `progress(done, total)` is called
        with numbers of rows, first with those already stored.

        Batches, their order and shared beginnings do not change a metric beyond rounding; with `batch_invariant`, they
        do not change a bit: each text is read alone, in passes that depend on it alone. `answers` should then hold no
        others. `whole` is for a model whose routers do not promise to choose alike in any batch: texts are read alone,
        and in one pass.
        """
        begun = time.perf_counter()
        answers = AnswerStore() if answers is None else answers
        with evaluating(model):
            plan = _Plan(model, self.context, batch_size, alone=batch_invariant or whole, whole=whole)
            _compute(plan, self.asked, answers, progress)
            followed = self._followed_up(answers)
            if followed is not self.asked:
                _compute(plan, followed, answers, progress)
        scored = self.scored(answers)
        result = self.task.total(scored.scores, self.context)
        intervals = intervals_of(
            self.metrics_of, scored.scores, groups=scored.group_N, estimates=result.estimates, seed=self.context.seed
        )
        cut = sum(is_cut(request, self.context) for each in followed for request, _ in each.requests)
        measured = {"items": len(self.asked), "cut_requests": cut, "seconds": time.perf_counter() - begun}
        if intervals.missing:
            measured["no_interval"] = self.named(intervals.missing)
        if routers := batch_dependent_routers(model):
            measured["batch_dependent_routers"] = routers
        return TaskResult(
            self.named(result.metrics),
            {**result.details, **measured},
            self.named(intervals.found),
            {group: self.named(self.metrics_of(scores)) for group, scores in scored.by_group()},
        )

    def answered(self, answers: AnswerStore) -> Iterator[Answered]:
        """Every item, from the answers that a run has stored."""
        for each in self._followed_up(answers):
            given = self._given(each, answers)
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

    def metrics_of(self, scores: Mapping[str, NDArray[np.float64]]) -> Mapping[str, float]:
        return self.task.total(scores, self.context).metrics

    def named(self, by_metric: Mapping[str, Value]) -> dict[str, Value]:
        """By the metrics' names; those of a part name the part."""
        if not self.limited:
            return dict(by_metric)
        part = f"first-{len(self.asked)}"
        return {f"{name}{'-' if '@' in name else '@'}{part}": value for name, value in by_metric.items()}

    def _followed_up(self, answers: AnswerStore) -> Sequence[Asked]:
        """The items with all that is asked about them, where the task asks about the answers too."""
        if not isinstance(self.task, FollowingUp):
            return self.asked
        task, context = self.task, self.context
        followed: list[Asked] = []
        for each in self.asked:
            more = task.follow_ups(each.item, self._given(each, answers), context)
            followed.append(Asked(each.item, [*each.requests, *_with_rows(more, each.item, context)]))
        return followed

    def _given(self, asked: Asked, answers: AnswerStore) -> list[Answer]:
        return [
            answer_of(request, [answers[answers.key(row)] for row in rows], self.context.tokenizer)
            for request, rows in asked.requests
        ]


def prepare(task: Task, context: TaskContext, name: str = "") -> Prepared:
    """All requests of the task, which problems call `name`; raises `ProblemError` for problems of the task or its data,
    for no items, and for a chat template through which the task asks nothing."""
    where = f"task '{name or type(task).__name__}'"
    given = None if context.chat is None else UsedTemplate(context.chat)
    context = replace(context, chat=given)
    read = iter(task.items(context))
    items = list(itertools.islice(read, context.limit))
    if not items:
        raise ProblemError(Problem("no-items", "the task has no items", where, "check its data"))
    limited = context.limit is not None and next(read, None) is not None
    asked = [_asked(task, item, context) for item in items]
    if given is not None:
        given.require_used(where)
    return Prepared(task, context, asked, limited)


def run_task(task: Task, model: LanguageModel, context: TaskContext, **options: Any) -> TaskResult:
    """`prepare`, then `Prepared.run` with the same options."""
    return prepare(task, context).run(model, **options)


def _asked(task: Task, item: Item, context: TaskContext) -> Asked:
    return Asked(item, _with_rows(task.requests(item, context), item, context))


def _with_rows(requests: Sequence[Request], item: Item, context: TaskContext) -> list[tuple[Request, Sequence[Row]]]:
    return [(request, rows_of(request, context, f"item '{item.id}'")) for request in requests]


class _Plan:
    """Which batches a model reads for given rows, and the passes that compute them."""

    def __init__(
        self, model: LanguageModel, context: TaskContext, batch_size: int, *, alone: bool, whole: bool
    ) -> None:
        self.passes = Passes(model, context.tokenizer, capacity=context.sequence_length, alone=alone)
        self._model, self._batch_size, self._alone = model, batch_size, alone
        self._shares = not whole and shares_beginnings(model)
        self._pass_tokens = PASS_TOKENS if device_of(model).type == "cpu" else PASS_TOKENS_OF_GPU

    def batches(self, rows: Mapping[str, Row]) -> Iterator[Batch]:
        if self._alone:
            return invariant_batches(rows, self._batch_size, shares=self._shares)
        lengths = {len(row.token_S) for row in rows.values() if row.kind is Generate}
        pads = len(lengths) > 1 and takes_padding(self._model)
        return batches(rows, self._batch_size, self._pass_tokens if self._shares else None, pads=pads)


def _compute(plan: _Plan, asked: Sequence[Asked], answers: AnswerStore, progress: Progress | None) -> None:
    rows = {answers.key(row): row for each in asked for _, rows in each.requests for row in rows}
    done = sum(key in answers for key in rows)
    _tell(progress, done, len(rows))
    for batch in plan.batches(rows):
        missing = batch.without(answers)
        if missing.texts:
            outputs = plan.passes.outputs(missing, rows)
            answers.add(outputs)
            done += len(outputs)
            _tell(progress, done, len(rows))


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
