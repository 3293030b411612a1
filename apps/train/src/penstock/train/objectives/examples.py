"""JSON lines that say which of their tokens count, in three forms:

{"text": "..."}                          every token
{"prompt": "...", "completion": "..."}   the completion and the end-of-text token, which a model must learn to write
{"tokens": [5, 9, ...], "mask": [0, 1, ...]}   tokens whose mask is 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.hooks.contracts import Tokenizer
from penstock.hooks.json_lines import json_rows_or_problems
from penstock.hooks.problems import Problem, ProblemError
from penstock.train.objectives.text_lines import unpaired_surrogate

FORMS = (("text",), ("prompt", "completion"), ("tokens", "mask"))
_REPAIR = "repair or remove the line"
SHOWN = 20  # most lines that one error reports


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens, and which of them count as targets."""

    tokens: list[int]
    counted: list[bool]

    def cut(self, length: int) -> Row:
        return Row(self.tokens[:length], self.counted[:length])


@dataclass(frozen=True, slots=True)
class Example:
    """A parsed line: its fields, and its place (file:line)."""

    fields: dict[str, Any]
    where: str

    def row(self, tokenizer: Tokenizer, end_of_text: int) -> Row:
        fields = self.fields
        if "tokens" in fields:
            return Row(fields["tokens"], [bool(each) for each in fields["mask"]])
        prompt = tokenizer.encode(fields.get("prompt", ""))
        counted = [*tokenizer.encode(fields["completion"] if "completion" in fields else fields["text"]), end_of_text]
        return Row([*prompt, *counted], [False] * len(prompt) + [True] * len(counted))


def read_examples(files: Sequence[Path]) -> list[Example]:
    """Every non-blank line of some files; raises a `ProblemError` that names the lines in none of the three forms."""
    examples: list[Example] = []
    problems: list[Problem] = []
    for file in files:
        before = len(examples)
        for where, fields in json_rows_or_problems(file):
            read = fields if isinstance(fields, Problem) else _example(fields, where)
            if isinstance(read, Problem):
                problems.append(read)
            else:
                examples.append(read)
        if len(examples) == before and not problems:
            problems.append(Problem("empty-corpus", "the file has no examples", str(file), "remove it from the list"))
    if problems:
        raise ProblemError(problems[:SHOWN])
    return examples


def _example(fields: dict[str, Any], where: str) -> Example | Problem:
    given = {name for form in FORMS for name in form if name in fields}
    form = next((form for form in FORMS if set(form) == given), None)
    if form is None:
        has = ", ".join(f"'{name}'" for name in fields) or "nothing"
        fix = "write 'text', or 'prompt' and 'completion', or 'tokens' and 'mask'"
        return Problem("bad-example", f"not an example of one form: its fields are {has}", where, fix)
    wrong = _wrong_tokens(fields) if "tokens" in form else _wrong_text(fields, form)
    return Example(fields, where) if wrong is None else Problem("bad-example", wrong, where, _REPAIR)


def _wrong_text(fields: dict[str, Any], form: Sequence[str]) -> str | None:
    for name in form:
        if not isinstance(fields[name], str):
            return f"'{name}' must be a string, not {fields[name]!r}"
        if wrong := unpaired_surrogate(fields[name]):
            return f"'{name}' {wrong}"
    return None if fields[form[-1]] else f"'{form[-1]}' is empty"


def _wrong_tokens(fields: dict[str, Any]) -> str | None:
    tokens, mask = fields["tokens"], fields["mask"]
    if not (isinstance(tokens, list) and all(type(each) is int and each >= 0 for each in tokens)):
        return "'tokens' must be a list of ids (integers >= 0)"
    if not (isinstance(mask, list) and all(type(each) in (int, bool) and each in (0, 1) for each in mask)):
        return "'mask' must be a list of 0 and 1"
    if len(tokens) != len(mask):
        return f"'tokens' has {len(tokens)} entries, but 'mask' has {len(mask)}"
    return None if len(tokens) > 1 else "fewer than two tokens: the first is never a target"
