"""GSM8K: word problems of grade school, solved in steps, whose last line is `#### ` and a number.

Prompts, stops and the two readings of an answer are those of `gsm8k` of lm-evaluation-harness: `strict` reads the
number behind the first `####`, `flexible` the last number of the text. Examples are the first problems of the train
split, the same for every question (lm-evaluation-harness draws other ones for each question).

Figures of another number of questions than the published 1,319 have it in their names:
`gsm8k.exact_match@strict-of-12-questions-5-shot`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from penstock.eval_suite.examples import (
    Example,
    convention,
    number_of_examples,
    prompt_text,
    prompt_tokens,
    require_room,
)
from penstock.eval_suite.sources import DataSet, Row, file_of_split, other_size, require_folder, text_of
from penstock.hooks.contracts import Answer, Array, Estimate, Generate, GenerateAnswer, Item, TaskContext, TaskResult
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import Problem, ProblemError

REPOSITORY = "openai/gsm8k"
SHOTS = 5
QUESTIONS = 1_319
"""Questions in the published test split."""
TOKENS = 256
STOPS = ("Question:", "</s>", "<|im_end|>")

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_NUMBERS = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))


class Gsm8k:
    """The share of problems whose number is right."""

    def __init__(self, path: str | Path | None = None, tokens: int = TOKENS) -> None:
        self._path = None if path is None else expanded(path)
        self._tokens = tokens

    def items(self, context: TaskContext) -> Iterator[Item]:
        """Raises `ProblemError` for missing files and columns, for a problem without an answer, and for more examples
        than there are or than fit."""
        require_room(context, self._tokens, "gsm8k")
        problems = self._problems("test", context)
        wanted = SHOTS if context.shots is None else context.shots
        examples = self._problems("train", context) if wanted else []

        def asked(shots: int) -> list[Generate]:
            return [self._request(problem.question, examples[:shots], context) for problem in problems]

        folder = self._path or (context.data and context.data / "gsm8k")
        where = f"the train split of {folder or REPOSITORY}"
        shots = number_of_examples(context, SHOTS, len(examples), where, asked)
        for number, problem in enumerate(problems, 1):
            yield Item(str(number), (problem.question, examples[:shots]), (problem.answer, len(problems)))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Generate]:
        question, examples = item.document
        return [self._request(question, examples, context)]

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        (answer,) = cast("Sequence[GenerateAnswer]", answers)
        _, examples = item.document
        gold, questions = item.gold
        return [
            {
                "right": float(is_same_number(strict_number(answer.text), gold)),
                "right_flexible": float(is_same_number(flexible_number(answer.text), gold)),
                "shots": float(len(examples)),
                "questions": float(questions),
            }
        ]

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        length = "" if self._tokens == TOKENS else f"-{self._tokens}-tokens"
        other = other_size(int(scores["questions"][0]), QUESTIONS, "questions")
        how = "-".join(filter(None, [other, f"{int(scores['shots'][0])}-shot{length}{convention(context)}"]))
        columns = {f"gsm8k.exact_match@strict-{how}": "right", f"gsm8k.exact_match@flexible-{how}": "right_flexible"}
        return TaskResult(
            {name: float(np.mean(scores[column])) for name, column in columns.items()},
            estimates={name: Estimate(column) for name, column in columns.items()},
        )

    def _request(self, question: str, examples: Sequence[Example], context: TaskContext) -> Generate:
        text = prompt_text(question, examples, context)
        return Generate(prompt_tokens(text, context), self._tokens, STOPS)

    def _problems(self, split: str, context: TaskContext) -> list[Example]:
        return [_problem(where, row) for where, row in self._rows(split, context)]

    def _rows(self, split: str, context: TaskContext) -> Iterator[Row]:
        """From the folder of `path` or of the context's data: `test.jsonl` and `train.jsonl`, or a clone of the hub's
        repository; or from the hub itself."""
        published = DataSet(REPOSITORY, "main", split, f"gsm8k/{split}.jsonl")
        if self._path is None:
            return published.rows(None, context)
        require_folder(self._path, "give the folder of test.jsonl and train.jsonl, or of a clone of openai/gsm8k")
        lines = file_of_split(self._path, "{split}.jsonl", split, ("train", "test"))
        return published.rows(lines or self._path, context)


def strict_number(text: str) -> str | None:
    """The number behind the first `#### `, as it is written; None if the text has no such number."""
    found = _STRICT.search(text)
    return None if found is None else found[1]


def flexible_number(text: str) -> str | None:
    """The last number in a text, as it is written; None if the text has no number."""
    found = _NUMBERS.findall(text)
    return next(filter(None, found[-1])) if found else None


def is_same_number(said: str | None, gold: str) -> bool:
    """Whether a number is that of the answer `gold`, apart from `$`, commas and a full stop at the end."""
    return said is not None and _bare(said) == _bare(gold)


def _bare(text: str) -> str:
    for ignored in _IGNORED:
        text = ignored.sub("", text)
    return text.lower()


def _problem(where: str, row: Mapping[str, object]) -> Example:
    question, answer = text_of(where, row, "question"), text_of(where, row, "answer")
    if not question.strip():
        raise ProblemError(Problem("invalid-field", "the question has no text", where, "repair or remove the row"))
    if strict_number(answer) is None:
        what = "the answer does not end with #### and a number"
        raise ProblemError(Problem("invalid-field", what, where, "repair or remove the row"))
    return Example(f"Question: {question}\nAnswer:", answer)
