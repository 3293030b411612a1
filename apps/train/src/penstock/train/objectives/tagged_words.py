"""Sentences of words with a tag each, from columns as CoNLL's and from JSON lines.

In a file of columns, a line is a word: its columns are separated by tabs, or by spaces in a line without tabs. The word
is the first of them and the tag by default the last. A word may hold other white space, such as the no-break space in
10 000. A blank line ends a sentence; a line that begins with -DOCSTART- ends a document and is left
out. A JSON line is {"words": [...], "tags": [...]}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.hooks.json_lines import is_json_lines, json_rows_or_problems
from penstock.hooks.problems import Problem
from penstock.train.objectives.file_rows import raise_all
from penstock.train.objectives.labelled_texts import REPAIR
from penstock.train.objectives.text_lines import text_lines, unpaired_surrogate

DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words, the tag of each, and the place of each (file:line)."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    places: tuple[str, ...]

    @classmethod
    def of(cls, lines: Sequence[tuple[str, str, str]]) -> Sentence:
        """From (word, tag, place) of each line."""
        words, tags, places = zip(*lines, strict=True)
        return cls(words, tags, places)


def read_sentences(files: Sequence[Path], column: int | None, limit: int | None = None) -> list[Sentence]:
    """Every sentence of some files, or the first `limit` of all. `column` is the tag's, counted from 1; None: the last.
    Raises a `ProblemError` that names the lines that are not words with a tag."""
    read: list[Sentence] = []
    problems: list[Problem] = []
    for file in files:
        before = len(read) + len(problems)
        for each in _json(file) if is_json_lines(file) else _columns(file, column):
            (problems if isinstance(each, Problem) else read).append(each)  # pyright: ignore[reportArgumentType]
            if limit is not None and len(read) == limit:
                break
        if len(read) + len(problems) == before and (limit is None or before < limit):
            problems.append(Problem("empty-corpus", "the file has no sentences", str(file), "remove it from the list"))
    raise_all(problems)
    return read


def _columns(file: Path, column: int | None) -> Iterator[Sentence | Problem]:
    lines: list[tuple[str, str, str]] = []
    for where, line in text_lines(file):
        if isinstance(line, Problem):
            yield line
            continue
        cells = _cells(line)
        if not cells or cells[0] == DOCUMENT:
            if lines:
                yield Sentence.of(lines)
            lines = []
        elif len(cells) < (column or 2):
            what = f"the line has no column {column or 2}, where the tag is"
            yield Problem("bad-example", what, where, REPAIR)
        else:
            lines.append((cells[0], cells[-1 if column is None else column - 1], where))
    if lines:
        yield Sentence.of(lines)


def _cells(line: str) -> list[str]:
    """The columns of a line that hold anything."""
    cells = (cell.strip(" ") for cell in line.split("\t" if "\t" in line else " "))
    return [cell for cell in cells if cell] if line.strip() else []


def _json(file: Path) -> Iterator[Sentence | Problem]:
    for where, fields in json_rows_or_problems(file):
        if isinstance(fields, Problem):
            yield fields
            continue
        words, tags = (_texts(fields.get(name)) for name in ("words", "tags"))
        if not words or not tags:
            yield Problem("bad-example", "'words' and 'tags' must be lists of strings", where, REPAIR)
        elif wrong := next(filter(None, map(unpaired_surrogate, words)), None):
            yield Problem("bad-example", f"a word {wrong}", where, REPAIR)
        elif len(words) != len(tags):
            yield Problem("bad-example", f"{len(words)} words have {len(tags)} tags", where, REPAIR)
        else:
            yield Sentence(words, tags, (where,) * len(words))


def _texts(value: Any) -> tuple[str, ...] | None:
    """The strings of a list that has no blank ones; None for anything else."""
    if not isinstance(value, list):
        return None
    texts = cast("list[object]", value)
    return tuple(map(str, texts)) if all(isinstance(each, str) and each.strip() for each in texts) else None
