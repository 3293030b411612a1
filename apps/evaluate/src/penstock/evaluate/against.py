"""`--against FILE`: figures beside those of an earlier evaluation, where both asked the same of the same data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.intervals import LEVEL
from penstock.eval_suite.paired import paired_metrics
from penstock.eval_suite.runner import Prepared
from penstock.evaluate.provenance import data_hash, prompts_hash
from penstock.evaluate.samples import Scores, Stored
from penstock.hooks.contracts import Interval
from penstock.hooks.problems import Problem, ProblemError
from penstock.run.records.evaluation import Against, Evaluation, FigureChange, TaskFigures

UNPAIRED = f"from the intervals of both, as of independent samples, {LEVEL:.0%}"


def require_same_questions(stored: Stored, tasks: Mapping[str, Prepared], tokenizer: str) -> None:
    """Raises `ProblemError` that names every task whose stored figures are of other data or prompts, before a model is
    loaded; and if the file has none of the tasks."""
    if not set(tasks) & set(stored.evaluation.tasks):
        what = f"it has no figures of {' or '.join(tasks)}, only of {', '.join(stored.evaluation.tasks) or 'no task'}"
        raise ProblemError(Problem("not-comparable", what, str(stored.path), "give a file with the same task"))
    problems = [
        Problem("not-comparable", f"figures of '{name}' are of {reason}", str(stored.path), fix)
        for name, task in tasks.items()
        if name in stored.evaluation.tasks
        for reason, fix in _differences(stored.evaluation.tasks[name], task, tokenizer)
    ]
    if problems:
        raise ProblemError(problems)


def _differences(stored: TaskFigures, task: Prepared, tokenizer: str) -> Iterator[tuple[str, str]]:
    """Why two figures do not compare, and what to do; other data always make other prompts."""
    earlier = stored.provenance
    if earlier is None:
        yield "unknown data and prompts, because no hashes were stored", "evaluate the earlier model again"
        return
    if earlier.data is None or earlier.data != data_hash(task):
        yield "other data (the hashes of the items differ)", "use the same data set, --limit and --seed"
    elif earlier.prompts != prompts_hash(task):
        if earlier.tokenizer != tokenizer:
            yield "other prompts: the tokenizers differ", "compare models of one tokenizer"
        elif earlier.sequence_length != task.context.sequence_length:
            most = f"--sequence-length {earlier.sequence_length}"
            yield f"other prompts: they were read {earlier.sequence_length} tokens at a time", f"give {most}"
        else:
            yield "other prompts (the hashes of the requests differ)", "use the same --shots and --chat-template"


def against(stored: Stored, now: Evaluation, tasks: Mapping[str, Prepared], answers: AnswerStore) -> Against:
    """The change of every figure that both have: with paired intervals where the file has samples, else with those of
    two independent estimates, which are wider than need be for models that find the same questions hard."""
    changes: list[FigureChange] = []
    for name, task in tasks.items():
        earlier = stored.evaluation.tasks.get(name)
        if earlier is not None:
            paired = _paired(task, answers, stored.scores.get(name))
            changes += _changes(name, now.tasks[name], earlier, paired)
    return Against(str(stored.path), stored.evaluation.checkpoint, changes)


def _changes(
    name: str, now: TaskFigures, stored: TaskFigures, paired: Mapping[str, Interval | None] | None
) -> Iterator[FigureChange]:
    for metric, value in now.metrics.items():
        before = stored.metrics.get(metric)
        if value is None or before is None:
            continue
        alone = independent(value, now.intervals.get(metric), before, stored.intervals.get(metric))
        interval = alone if paired is None else paired.get(metric)
        yield FigureChange(name, metric, before, value, value - before, interval, paired is not None)


def _paired(task: Prepared, answers: AnswerStore, stored: Scores | None) -> dict[str, Interval | None] | None:
    """Intervals of the differences, over questions; None without stored scores of the same samples."""
    scored = task.scored(answers)
    now = scored.scores
    if stored is None or {name: len(each) for name, each in stored.items()} != {k: len(v) for k, v in now.items()}:
        return None
    found = paired_metrics(
        task.metrics_of,
        stored,
        now,
        groups=scored.group_N,
        estimates=task.task.total(now, task.context).estimates,
        seed=task.context.seed,
    )
    return task.named({name: each.interval for name, each in found.items()})


def independent(value: float, now: Interval | None, before: float, stored: Interval | None) -> Interval | None:
    """From each one's own interval (Zou and Donner 2008, 10.1002/sim.3095), so that two shares of 0 do not differ by
    exactly 0, and skewed intervals stay skewed."""
    if now is None or stored is None:
        return None
    difference = value - before
    return Interval(
        difference - math.hypot(value - now.low, stored.high - before),
        difference + math.hypot(now.high - value, before - stored.low),
        math.hypot(now.standard_error, stored.standard_error),
        min(now.samples, stored.samples),
        UNPAIRED,
    )
