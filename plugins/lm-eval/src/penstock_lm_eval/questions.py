"""The questions of a task of the harness: its documents, with as many examples as are asked for and fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from penstock.hooks.contracts import Generate, Likelihood, Request, Rolling, TaskContext
from penstock.hooks.problems import Problem, ProblemError
from penstock_lm_eval.asking import requests_of

SEED = 1234
"""The harness's default seed of examples. Seed N of the context is N more."""


@dataclass(frozen=True, slots=True)
class Question:
    """A document of a task by its number, and what the harness asks about it."""

    task: str
    number: int
    instances: Sequence[Any]

    def requests(self, context: TaskContext) -> list[Request]:
        return [request for instance in self.instances for request in requests_of(instance, context)]


def questions(tasks: Mapping[str, Any], shots: Mapping[str, int], context: TaskContext) -> Iterator[Question]:
    """The questions of all tasks in turn, one of each after the other, so that the first ones are a sample of all.
    Raises `ProblemError` for a document that cannot be asked, or that has no right answer."""
    waiting = [_of_task(name, task, shots[name], context) for name, task in tasks.items()]
    while waiting:
        still = []
        for each in waiting:
            question = next(each, None)
            if question is not None:
                yield question
                still.append(each)
        waiting = still


def _of_task(name: str, task: Any, shots: int, context: TaskContext) -> Iterator[Question]:
    task.set_fewshot_seed(SEED + context.seed)
    for number, doc in enumerate(task.eval_docs):
        where = f"{name}: document {number}"
        try:
            text = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
            made = task.construct_requests(doc=doc, ctx=text, metadata=(name, number, task.config.repeats or 1))
            right = _has_right_choice(task, doc)
        except Exception as error:  # templates and code of a task raise anything
            what = f"the document cannot be asked ({type(error).__name__}: {error})"
            raise ProblemError(Problem("bad-task", what, where, "check the task's YAML and its data")) from error
        if not right:
            what = "the document has no right answer among its choices"
            raise ProblemError(Problem("invalid-field", what, where, "correct the document, or remove it"))
        yield Question(name, number, made if isinstance(made, list) else [made])


def _has_right_choice(task: Any, doc: Any) -> bool:
    """Of tasks with choices, whether the right one is among them; the harness would count such a document as wrong."""
    if task.OUTPUT_TYPE != "multiple_choice" or callable(getattr(task.config, "process_results", None)):
        return True
    choices = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    known = [
        each in choices if isinstance(each, str) else 0 <= each < len(choices)
        for each in (gold if isinstance(gold, list) else [gold])
    ]
    return bool(known) and all(known)


def shots_of(tasks: Mapping[str, Any], context: TaskContext) -> dict[str, int]:
    """How many examples each task shows: its own number, or the context's, or as many as fit. Raises `ProblemError` if
    a task takes none, and if they do not fit and none may be left out."""
    shots = {name: _asked(name, task, context.shots) for name, task in tasks.items()}
    while any(shots.values()):
        long = _too_long(tasks, shots, context)
        if long is None:
            break
        if not context.fit_shots:
            raise ProblemError(_not_fitting(long, shots[long.task], context))
        most = max(shots.values()) - 1
        shots = {name: min(number, most) for name, number in shots.items()}
    return shots


def _asked(name: str, task: Any, shots: int | None) -> int:
    own = getattr(task.config, "num_fewshot", None)
    if shots is None:
        return own or 0
    if shots and (own == 0 or task.OUTPUT_TYPE == "loglikelihood_rolling"):
        what = f"the task '{name}' takes no few-shot examples"
        raise ProblemError(Problem("no-shots", what, f"--shots {shots}", "leave it out"))
    return shots


def _too_long(tasks: Mapping[str, Any], shots: Mapping[str, int], context: TaskContext) -> Question | None:
    """The first question with examples that is longer than the model reads."""
    for question in islice(questions(tasks, shots, context), context.limit):
        if shots[question.task] and any(_length(each) > context.sequence_length for each in question.requests(context)):
            return question
    return None


def _length(request: Request) -> int:
    """The tokens that a model reads for a request."""
    match request:
        case Generate():
            return len(request.prompt) + request.tokens
        case Likelihood():
            return len(request.context) + len(request.continuation) - 1
        case Rolling():
            return request.sequence_length


def _not_fitting(question: Question, shots: int, context: TaskContext) -> Problem:
    longest = max(_length(each) for each in question.requests(context))
    what = f"{shots} examples and the question are {longest} tokens, but the model reads {context.sequence_length}"
    fix = "--shots fit takes as many as fit, and names their number in the metrics"
    return Problem("shots-too-long", what, f"{question.task}: document {question.number}", fix)
