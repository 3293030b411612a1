"""Questions on a text that holds the answer: SQuAD's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.hooks.compressed import open_input
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem
from penstock.train.objectives.file_rows import raise_all
from penstock.train.objectives.text_lines import unpaired_surrogate

REPAIR = "repair or remove it"


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a text, and its answers: text and place of its first character. None for a question that the text
    does not answer. `where` is the file and the question's id."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    where: str


def read_questions(files: Sequence[Path]) -> list[Question]:
    """Every question of some files; raises a `ProblemError` that names what is no question, or an answer that does not
    stand where it says."""
    read: list[Question] = []
    problems: list[Problem] = []
    for file in files:
        for each in _questions(file):
            (problems if isinstance(each, Problem) else read).append(each)  # pyright: ignore[reportArgumentType]
    if not read and not problems:
        problems.append(Problem("empty-corpus", "the files have no questions", str(files[0]), "give other files"))
    raise_all(problems)
    return read


def _questions(file: Path) -> Iterator[Question | Problem]:
    with open_input(file) as stream:
        text = stream.read()
    try:
        document: Any = parse_json(text.decode("utf-8-sig"))
    except ValueError as error:
        yield Problem("invalid-json", f"not valid JSON ({error})", str(file), "repair the file")
        return
    fix, where = "write SQuAD's form: data, paragraphs, context, qas, question, answers, text, answer_start", str(file)
    try:
        for article, entry in enumerate(document["data"]):
            for number, paragraph in enumerate(entry["paragraphs"]):
                where = f"{file}: data[{article}].paragraphs[{number}]"
                for asked in paragraph["qas"]:
                    where = f"{file}: question {asked.get('id', f'of data[{article}].paragraphs[{number}]')}"
                    yield _question(asked, paragraph["context"], where)
    except KeyError as error:
        yield Problem("bad-example", f"has no {error}", where, fix)
    except (TypeError, AttributeError):
        yield Problem("bad-example", "a value has another type than in SQuAD's form", where, fix)


def _question(asked: dict[str, Any], context: Any, where: str) -> Question | Problem:
    question = asked["question"]
    if not isinstance(context, str) or not isinstance(question, str):
        return Problem("bad-example", "question and context must be strings", where, REPAIR)
    for name, text in (("question", question), ("context", context)):
        if wrong := unpaired_surrogate(text):
            return Problem("bad-example", f"the {name} {wrong}", where, REPAIR)
    answers = [] if asked.get("is_impossible") else cast("list[dict[str, Any]]", asked["answers"])
    pairs = tuple((each["text"], each["answer_start"]) for each in answers)
    for text, start in pairs:
        if context[start : start + len(text)] != text or not text:
            what = f"the answer {text!r} does not stand at character {start} of the context"
            return Problem("bad-example", what, where, "correct answer_start, counted from 0")
    return Question(question, context, pairs, where)
