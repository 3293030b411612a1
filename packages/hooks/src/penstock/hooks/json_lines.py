"""JSON lines, plain or compressed: each non-blank line is a JSON object in UTF-8 without equal keys, and a bad one is
named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from penstock.hooks.compressed import open_input, uncompressed_name
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError

LONGEST_LINE = 1 << 30
"""Bytes of a line that is refused: a text of a gigabyte takes several while it is parsed."""


def is_json_lines(path: Path) -> bool:
    """Whether a file is one by its name. A backup such as `train.jsonl.bak` or `train.jsonl~` is not."""
    return uncompressed_name(path).endswith(".jsonl")


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place of each line, "FILE:LINE", and its object; raises `ProblemError` for the first line that
    holds no object."""
    for where, row in json_rows_or_problems(path):
        if isinstance(row, Problem):
            raise ProblemError(row)
        yield where, row


def json_rows_or_problems(path: Path) -> Iterator[tuple[str, dict[str, Any] | Problem]]:
    """Like `json_rows`, with a `Problem` in place of a bad line, for readers that report all of them at once. A file of
    other JSON, such as an array, is one problem. Raises `ProblemError` for a line above `LONGEST_LINE`."""
    first = True
    with open_input(path) as stream:
        for number, line in enumerate(_lines(stream), 1):
            where = f"{path}:{number}"
            if len(line) > LONGEST_LINE:
                what = f"the line has more than {LONGEST_LINE:,} bytes"
                raise ProblemError(Problem("line-too-long", what, where, "write its text into several lines"))
            if not line.strip():
                continue
            row = parsed_row(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where)
            if first and isinstance(row, Problem) and (other := _other_json(line, path)):
                yield where, other
                return
            first = False
            yield where, row


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines, of which one that is too long is cut."""
    return iter(lambda: stream.readline(LONGEST_LINE + 1), b"")


def _other_json(line: bytes, path: Path) -> Problem | None:
    """A file of JSON whose first line shows that it has no object a line: one problem of the file instead of one of
    each of its lines."""
    begun = line.removeprefix(b"\xef\xbb\xbf").strip()
    if begun.startswith(b"["):
        what, fix = "the file is a JSON array", "write each object into a line, as `jq -c '.[]'` does"
    elif begun == b"{":
        what, fix = "the file is JSON over several lines", "write each object into a line, as `jq -c` does"
    else:
        return None
    return Problem("invalid-json", f"{what}, not JSON lines", str(path), fix)


def parsed_row(line: bytes, where: str) -> dict[str, Any] | Problem:
    """The object of one line, or what is wrong with it."""
    try:
        row = parse_json(line.decode("utf-8"), distinct=True)
    except UnicodeDecodeError as error:
        what = f"invalid UTF-8, 0x{line[error.start]:02x} at byte {error.start} of the line"
        return Problem("not-text", what, where, "convert the file to UTF-8")
    except ValueError as error:
        if b"\0" in line:
            return Problem("not-text", "a byte is 0, as in UTF-16", where, "convert the file to UTF-8")
        return Problem("invalid-json", f"not valid JSON ({error})", where, "repair or remove the line")
    if not isinstance(row, dict):
        what = f"expected a JSON object, got {type(row).__name__}"
        return Problem("invalid-json", what, where, "repair or remove the line")
    return cast("dict[str, Any]", row)
