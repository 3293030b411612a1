"""Data sets of tasks: local files in the layout of the Hugging Face hub, plain or compressed, or the hub itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock.hooks.compressed import open_input
from penstock.hooks.contracts import TaskContext
from penstock.hooks.json_lines import json_rows
from penstock.hooks.problems import Problem, ProblemError

_SUFFIXES = ("", ".xz", ".gz", ".bz2", ".zst")


def local_file(path: Path | None, context: TaskContext, name: str) -> Path | None:
    """The file of a data set: `path` if it is set, else `name` in the context's data folder, plain or compressed. None
    if neither is given. Raises `ProblemError` if the folder does not have the file."""
    if path is not None or context.data is None:
        return path
    candidates = [context.data / f"{name}{suffix}" for suffix in _SUFFIXES]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        what = f"the folder has no {name}, plain or compressed ({', '.join(_SUFFIXES[1:])})"
        fix = "put it there, or name another folder with --data"
        raise ProblemError(Problem("missing-file", what, str(context.data), fix))
    return found


def read_text(path: Path) -> str:
    """A text file, byte for byte, decompressed if its name says so."""
    _require_file(path)
    with open_input(path) as stream:
        data = stream.read()
    try:
        return data.decode("utf-8")  # not a text stream: it would rewrite line ends
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x})"
        fix = "convert it to UTF-8; the name of a compressed file must end in .xz, .gz, .bz2 or .zst"
        raise ProblemError(Problem("unreadable-file", what, str(path), fix)) from error


def local_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The place of each row of a JSON lines file, plain or compressed, and the row."""
    _require_file(path)
    yield from json_rows(path)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ProblemError(
            Problem(
                "missing-file",
                "file not found",
                str(path),
                "check the path, or name the folder of the data with --data",
            )
        )


def texts_of(rows: Iterable[tuple[str, Mapping[str, Any]]], column: str) -> Iterator[tuple[str, str]]:
    """The location of each row and its text in `column`; raises `ProblemError` for the first row without text."""
    for where, row in rows:
        if column not in row:
            what = f"unknown column '{column}'"
            raise ProblemError(
                Problem("unknown-field", what, where, f"the row has {', '.join(map(str, row)) or 'none'}")
            )
        text = row[column]
        if not isinstance(text, str):
            what = f"column '{column}' is {type(text).__name__}, not a string"
            raise ProblemError(Problem("invalid-field", what, where))
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON escapes can spell half of a surrogate pair, UTF-8 cannot
            what = f"column '{column}' has half of a surrogate pair at character {error.start}"
            raise ProblemError(Problem("invalid-field", what, where, "rewrite the line from valid Unicode")) from None
        yield where, text


def hub_rows(repository: str, name: str | None, split: str, file: str) -> list[Mapping[str, Any]]:
    """Rows of a split of a data set on the hub; `file` is a local file that a user can provide instead."""
    try:
        import datasets

        rows: Any = datasets.load_dataset(repository, name, split=split)
        return list(rows)
    except ImportError as error:
        fix = f"install it with `uv add 'penstock-eval-suite[hf]'`, or set `path` to a local {file}"
        raise ProblemError(Problem("missing-package", "needs the package 'datasets'", repository, fix)) from error
    except Exception as error:  # the hub's client raises errors of four libraries when offline
        what = f"{repository} cannot be loaded from the hub ({type(error).__name__})"
        raise ProblemError(Problem("hub-unreachable", what, repository, f"set `path` to a local {file}")) from error
