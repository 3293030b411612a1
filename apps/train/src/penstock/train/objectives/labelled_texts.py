"""Texts with a label each, from lines of tab-separated columns and from JSON lines.

Columns of a `.tsv` file are not quoted, as in the files of GLUE. They are named by the header line, or counted from 1
in a file without one. Fields of JSON lines are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.hooks.compressed import uncompressed_name
from penstock.hooks.json_lines import is_json_lines, json_rows_or_problems
from penstock.hooks.problems import Problem, did_you_mean
from penstock.train.objectives.file_rows import raise_all
from penstock.train.objectives.text_lines import text_lines

Column = str | int
REPAIR = "repair or remove the line"


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a text, or two of them, and the label stand."""

    texts: tuple[Column, ...]
    label: Column

    @property
    def all(self) -> tuple[Column, ...]:
        return (*self.texts, self.label)


OF_TSV, OF_JSON = Columns((1,), 2), Columns(("text",), "label")


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One text or a pair, its label, and its place (file:line)."""

    texts: tuple[str, ...]
    label: str
    where: str


def is_labelled_texts(path: Path) -> bool:
    """Whether a file is one by its name."""
    return is_json_lines(path) or uncompressed_name(path).endswith(".tsv")


def read_labelled_texts(files: Sequence[Path], columns: Columns | None) -> list[LabelledText]:
    """Every non-blank line, by default with the text in column 1 and the label in column 2 of a `.tsv` file, and in the
    fields `text` and `label` of JSON lines. Raises a `ProblemError` that names the lines that have no text or label."""
    read: list[LabelledText] = []
    problems: list[Problem] = []
    for file in files:
        before = len(read) + len(problems)
        rows = _json(file, columns or OF_JSON) if is_json_lines(file) else _tsv(file, columns or OF_TSV)
        for row in rows:
            (problems if isinstance(row, Problem) else read).append(row)  # pyright: ignore[reportArgumentType]
        if len(read) + len(problems) == before:
            problems.append(Problem("empty-corpus", "the file has no examples", str(file), "remove it from the list"))
    raise_all(problems)
    return read


def _json(file: Path, columns: Columns) -> Iterator[LabelledText | Problem]:
    for where, fields in json_rows_or_problems(file):
        if isinstance(fields, Problem):
            yield fields
        elif missing := [name for name in columns.all if name not in fields]:
            what = f"the line has no field '{missing[0]}'"
            yield Problem("bad-example", what, where, did_you_mean(str(missing[0]), fields))
        else:
            values = [fields[str(name)] for name in columns.all]
            yield _of_values(values, where)


def _tsv(file: Path, columns: Columns) -> Iterator[LabelledText | Problem]:
    places: Sequence[int] | None = None
    named = any(isinstance(each, str) for each in columns.all)
    for where, line in text_lines(file):
        if isinstance(line, Problem):
            yield line
            continue
        cells = line.split("\t")
        if places is None:
            found = _places(columns, cells if named else (), where)
            if isinstance(found, Problem):
                yield found
                return
            places = found
            if named:
                continue
        if not line.strip():
            continue
        if len(cells) <= max(places):
            what = f"the line has {len(cells)} columns, and column {max(places) + 1} is read"
            yield Problem("bad-example", what, where, "separate columns by tabs, or set `texts` and `label`")
        else:
            yield _of_values([cells[place] for place in places], where)


def _places(columns: Columns, header: Sequence[str], where: str) -> list[int] | Problem:
    """Indices of the columns; a number counts from 1."""
    places: list[int] = []
    for column in columns.all:
        if isinstance(column, int):
            places.append(column - 1)
        elif column in header:
            places.append(header.index(column))
        else:
            what = f"the header line has no column '{column}'"
            return Problem("bad-example", what, where, did_you_mean(column, header))
    return places


def _of_values(values: Sequence[Any], where: str) -> LabelledText | Problem:
    *texts, label = values
    if wrong := next((text for text in texts if not isinstance(text, str) or not text.strip()), None):
        return Problem("bad-example", f"the text must be a string, not {wrong!r}", where, REPAIR)
    if any(not isinstance(text, str) or not text.strip() for text in texts):
        return Problem("bad-example", "the text is empty", where, REPAIR)
    if not isinstance(label, (str, int)) or label == "":
        return Problem("bad-example", f"the label must be a string or an integer, not {label!r}", where, REPAIR)
    return LabelledText(tuple(texts), str(label), where)
