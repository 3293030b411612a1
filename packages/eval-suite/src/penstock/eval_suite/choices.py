"""Multiple choice: which of some answers does the model find likeliest?

`choices.accuracy@physics.jsonl-1a2b3c4d-texts-0-shot` means: the questions of physics.jsonl, whose hash (of questions,
examples and form of the prompt) begins with 1a2b3c4d, answered with the text of a choice, without examples before a
question. The model's choice is the one of the highest likelihood; `accuracy_normalised` divides its logarithm by the
characters or bytes of the choice first, so that long ones are not at a disadvantage. `choice_probability` is the share
of the right choice in the sum of all likelihoods; it tells small models apart that all guess.

Shape suffixes: C choices of a question.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from penstock.eval_suite.examples import Example, number_text, prompt_text
from penstock.eval_suite.examples import convention as chat_convention
from penstock.eval_suite.prompts import continuations
from penstock.eval_suite.rows import is_cut
from penstock.eval_suite.sources import clone_rows, local_rows, located, require_text, some_rows, text_of, value_of
from penstock.hooks.contracts import (
    Answer,
    Array,
    Estimate,
    Item,
    Likelihood,
    LikelihoodAnswer,
    TaskContext,
    TaskResult,
)
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import Problem, ProblemError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Answers = Literal["letters", "texts"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its choices, and the index of the right one. Those of one `group` are alike."""

    text: str
    choices: tuple[str, ...]
    right: int
    group: str = ""


class Gold(NamedTuple):
    """The index of the right choice, what a task says of its data, and the choice as text."""

    right: int
    data: Any
    text: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a row hold the question, its choices (one column, or one for each choice), the answer, and the
    group, if there is one."""

    question: str = "question"
    choices: str | Sequence[str] = "choices"
    answer: str = "answer"
    group: str | None = None

    def question_of(self, where: str, row: Mapping[str, Any]) -> Question:
        """Raises `ProblemError` for a missing column, fewer than two choices, and an answer that names none of them."""
        choices, labels = self._choices(where, row)
        right = index_of(value_of(where, row, self.answer), labels, len(choices), where, self.answer)
        return Question(text_of(where, row, self.question), choices, right, self._group(where, row))

    def _group(self, where: str, row: Mapping[str, Any]) -> str:
        found = None if self.group is None else value_of(where, row, self.group)
        if self.group is not None and found in (None, ""):
            what = f"the question has no group in column '{self.group}'"
            raise ProblemError(Problem("invalid-field", what, where, "repair or remove the row"))
        return "" if found is None else str(found)

    def _choices(self, where: str, row: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The texts of the choices, and their labels if the row has any, as in ARC."""
        if not isinstance(self.choices, str):
            return tuple(text_of(where, row, column) for column in self.choices), ()
        found: Any = value_of(where, row, self.choices)
        labels: Any = None
        if isinstance(found, Mapping):
            labels, found = value_of(where, found, "label"), value_of(where, found, "text")
            self._require_list(labels, "labels", where)
        self._require_list(found, "choices", where)
        texts = tuple(require_text(text, where, f"choice {number}") for number, text in enumerate(found, 1))
        named = () if labels is None else tuple(map(str, labels))
        if labels is not None and not len(set(named)) == len(named) == len(texts):
            what = f"{len(texts)} choices have the labels {', '.join(named)}, not a label of its own each"
            raise ProblemError(Problem("invalid-field", what, where, "repair or remove the row"))
        return texts, named

    def _require_list(self, found: Any, name: str, where: str) -> None:
        if not isinstance(found, Sequence) or isinstance(found, str) or len(found) < 2:
            what = f"column '{self.choices}' is not a list of at least two {name}"
            raise ProblemError(Problem("invalid-field", what, where, "repair or remove the row"))


@dataclass(frozen=True, slots=True)
class Form:
    """How a question is written. `template` holds {question}, and {choices} for a line such as `A. turbine` for each
    choice; the answer follows it after a space, as the letter or the text of a choice."""

    answers: Answers
    template: str

    def prompt(self, question: Question) -> str:
        lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
        parts = {"question": question.text, "choices": lines}
        return re.sub(r"\{(question|choices)\}", lambda match: parts[match[1]], self.template)

    def answers_of(self, question: Question) -> tuple[str, ...]:
        return question.choices if self.answers == "texts" else tuple(LETTERS[: len(question.choices)])

    def example(self, question: Question) -> Example:
        return Example(self.prompt(question), self.answers_of(question)[question.right])


FORMS: Mapping[Answers, Form] = {
    "letters": Form("letters", "{question}\n{choices}\nAnswer:"),
    "texts": Form("texts", "Question: {question}\nAnswer:"),
}
"""The forms of MMLU and of ARC in lm-evaluation-harness."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything before the answer, the possible answers, and the number of examples in it."""

    text: str
    answers: tuple[str, ...]
    shots: int = 0


class Choices:
    """Multiple-choice questions of any file."""

    def __init__(
        self,
        path: str | Path,
        split: str = "test",
        name: str | None = None,
        question: str = "question",
        choices: str | Sequence[str] = "choices",
        answer: str = "answer",
        group: str | None = None,
        answers: Answers = "texts",
        prompt: str | None = None,
        shots: int = 0,
        examples: str | Path | None = None,
    ) -> None:
        self._path = expanded(path)
        self._split = split
        self._name = name
        self._columns = Columns(question, choices, answer, group)
        self._form = FORMS[answers] if prompt is None else Form(answers, prompt)
        self._shots = shots
        self._examples = None if examples is None else expanded(examples)

    def items(self, context: TaskContext) -> Iterator[Item]:
        """One item a question. Raises `ProblemError` for what is wrong with a row, and for more examples than there
        are or than fit."""
        questions = self._questions(self._path, self._split)
        examples = [] if self._examples is None else self._questions(self._examples, "train")

        def prompts(shots: int) -> list[Prompt]:
            return [prompt_of(self._form, question, examples[:shots], context) for question in questions]

        asked = prompts(shots_of(context, self._shots, len(examples), str(self._examples or self._path), prompts))
        digest = hashlib.sha256(repr((self._form, questions, examples)).encode()).hexdigest()
        for number, (prompt, question) in enumerate(zip(asked, questions, strict=True), 1):
            yield Item(
                str(number), prompt, Gold(question.right, digest[:8], question.choices[question.right]), question.group
            )

    def requests(self, item: Item, context: TaskContext) -> Sequence[Likelihood]:
        return requests_of(item.document, context, f"question {item.id}")

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        right, digest, _ = item.gold
        data = {"data": float(int(digest, 16))}  # 32 bits, which a float holds exactly
        return [scores_of(item.document, right, answers) | data]

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        file = re.sub(r"[^\w.]+", "-", self._path.name)
        data = f"{file}-{int(scores['data'][0]):08x}"
        texts = self._form.answers == "texts"
        return metrics_of("choices", f"{data}-{self._form.answers}", scores, context, texts=texts)

    def _questions(self, path: Path, split: str) -> list[Question]:
        rows = located(clone_rows(path, self._name, split), path, split) if path.is_dir() else local_rows(path)
        return [
            require_writable(self._columns.question_of(where, row), self._form, where)
            for where, row in some_rows(rows, str(path))
        ]


def index_of(value: Any, labels: Sequence[str], choices: int, where: str, column: str) -> int:
    """The index of the right choice: by its label if choices have labels, otherwise by its number from 0, as a number
    or as digits, or by its letter. Raises `ProblemError` if the answer is missing, or names no choice."""
    if value is None or value in ("", -1):
        fix = "take a split with answers; those of hidden test sets are empty"
        raise ProblemError(Problem("invalid-field", f"the question has no answer in column '{column}'", where, fix))
    text = str(value).strip()
    if labels:
        found = labels.index(text) if text in labels else -1
        known = ", ".join(labels)
    else:
        by_letter = isinstance(value, str) and len(text) == 1 and text in LETTERS
        found = LETTERS.index(text) if by_letter else int(text) if re.fullmatch(r"\d{1,4}", text) else -1
        known = f"0 to {choices - 1}, or A to {LETTERS[min(choices, len(LETTERS)) - 1]}"
    if isinstance(value, bool) or not 0 <= found < choices:
        what = f"the answer {value!r} in column '{column}' is not one of the {choices} choices"
        raise ProblemError(Problem("invalid-field", what, where, f"possible are {known}"))
    return found


def require_writable(question: Question, form: Form, where: str) -> Question:
    """The question; raises `ProblemError` if it has no text, more choices than there are letters, or, where the text
    of a choice is the answer, a blank one."""
    if not question.text.strip():
        raise ProblemError(Problem("invalid-field", "the question has no text", where, "repair or remove the row"))
    if form.answers == "letters" and len(question.choices) > len(LETTERS):
        what = f"{len(question.choices)} choices are more than there are letters"
        raise ProblemError(Problem("invalid-field", what, where, "set `answers: texts`"))
    for number, choice in enumerate(question.choices, 1):
        if form.answers == "texts" and not choice.strip():
            what = f"choice {number} has no text"
            raise ProblemError(Problem("invalid-field", what, where, "repair or remove the row"))
    return question


def prompt_of(
    form: Form, question: Question, examples: Sequence[Question], context: TaskContext, about: str = ""
) -> Prompt:
    text = prompt_text(form.prompt(question), [form.example(each) for each in examples], context, about)
    return Prompt(text, form.answers_of(question), len(examples))


def shots_of(
    context: TaskContext, own: int, available: int, where: str, prompts: Callable[[int], Iterable[Prompt]]
) -> int:
    """The number of examples before each question: those asked for, or the task's `own`. With `fit_shots`, the most of
    them with which no prompt of the whole task is cut; 0 if one is cut even without examples.

    Raises `ProblemError` for more examples than are `available`.
    """
    wanted = own if context.shots is None else context.shots
    if wanted > available:
        what = f"{number_text(wanted)} before each question, but there are {available}"
        raise ProblemError(Problem("no-shots", what, where, f"use --shots {available}, or give more examples"))
    if not context.fit_shots:
        return wanted
    return next((shots for shots in range(wanted, 0, -1) if _all_fit(prompts(shots), context)), 0)


def _all_fit(prompts: Iterable[Prompt], context: TaskContext) -> bool:
    longest_first = sorted(prompts, key=lambda prompt: -len(prompt.text))  # one that is cut is soon found
    return all(_fits(prompt, context) for prompt in longest_first)


def _fits(prompt: Prompt, context: TaskContext) -> bool:
    longest = max(len(answer.encode()) for answer in prompt.answers)
    if len(prompt.text.encode()) + longest + 3 <= context.sequence_length:  # a token has at least one byte
        return True
    return not any(is_cut(request, context) for request in _likelihoods(prompt, context))


def requests_of(prompt: Prompt, context: TaskContext, where: str) -> list[Likelihood]:
    """A request for each answer; raises `ProblemError` if examples make the prompt longer than the model reads."""
    requests = _likelihoods(prompt, context)
    if prompt.shots and any(is_cut(request, context) for request in requests):
        tokens = max(len(request.context) + len(request.continuation) for request in requests) - 1
        what = f"with {number_text(prompt.shots)} it has {tokens} tokens, but the model reads {context.sequence_length}"
        fix = "use --shots fit for as many as fit, or --shots 0"
        raise ProblemError(Problem("shots-too-long", what, where, fix))
    return requests


def _likelihoods(prompt: Prompt, context: TaskContext) -> list[Likelihood]:
    if context.chat is None:
        return continuations(context.tokenizer, prompt.text, [f" {answer}" for answer in prompt.answers])
    return continuations(context.tokenizer, prompt.text, prompt.answers, context.chat.encode)


def scores_of(prompt: Prompt, right: int, answers: Sequence[Answer]) -> dict[str, float]:
    """Whether the model chooses right, by each of the three rules, and how sure it is of the right choice and of its
    own. Of equal choices, the first is the model's."""
    log_C = np.array([-answer.nll for answer in cast("Sequence[LikelihoodAnswer]", answers)])
    character_C = np.array([len(answer) for answer in prompt.answers])
    byte_C = np.array([len(answer.encode()) for answer in prompt.answers])
    share_C = np.exp(log_C - log_C.max())
    share_C /= share_C.sum()
    return {
        "right": float(log_C.argmax() == right),
        "right_by_characters": float((log_C / character_C).argmax() == right),
        "right_by_bytes": float((log_C / byte_C).argmax() == right),
        "choice_probability": float(share_C[right]),
        "confidence": float(share_C.max()),
        "shots": float(prompt.shots),
    }


def metrics_of(task: str, data: str, scores: Mapping[str, Array], context: TaskContext, *, texts: bool) -> TaskResult:
    """The metrics by their names: `data` and the number of shots are the convention. Letters are all of one length, so
    normalised accuracy would be the same."""
    convention = f"{data}-{int(scores['shots'][0])}-shot{chat_convention(context)}".lstrip("-")
    columns = {"accuracy@": "right", "choice_probability@": "choice_probability"}
    if texts:
        columns |= {"accuracy_normalised@characters-": "right_by_characters"}
        columns |= {"accuracy_normalised@bytes-": "right_by_bytes"}
    named = {f"{task}.{name}{convention}": column for name, column in columns.items()}
    return TaskResult(
        {name: float(scores[column].mean()) for name, column in named.items()},
        estimates={name: Estimate(column) for name, column in named.items()},
    )
