"""Data sets of tasks: local files in the layout of the Hugging Face hub, plain or compressed, or the hub itself."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock.hooks.contracts import TaskContext
from penstock.hooks.problems import Problem, ProblemError

_DECOMPRESS: Mapping[str, Callable[[bytes], bytes]] = {".xz": lzma.decompress, ".gz": gzip.decompress}


def local_file(path: Path | None, context: TaskContext, name: str) -> Path | None:
    """The file of a data set: `path` if it is set, else `name` in the context's data folder, plain or compressed. None
    if neither is given. Raises `ProblemError` if the folder does not have the file."""
    if path is not None or context.data is None:
        return path
    candidates = [context.data / f"{name}{suffix}" for suffix in ("", *_DECOMPRESS)]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        what = f"the folder has no {name}, {name}.xz or {name}.gz"
        fix = "put it there, or name another folder with --data"
        raise ProblemError(Problem("missing-file", what, str(context.data), fix))
    return found


def read_text(path: Path) -> str:
    """A text file, byte for byte, decompressed if its name ends in .xz or .gz."""
    try:
        stored = path.read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise ProblemError(Problem("missing-file", what, str(path), "set a file with `path` or --data")) from error
    try:
        return _DECOMPRESS.get(path.suffix, bytes)(stored).decode("utf-8")  # not read_text: it would rewrite line ends
    except UnicodeDecodeError as error:
        fix = "decompress it first, or rename it to end in .xz or .gz"
        raise ProblemError(Problem("unreadable-file", "is not UTF-8 text", str(path), fix)) from error
    except (lzma.LZMAError, OSError, EOFError) as error:
        raise ProblemError(Problem("damaged-file", f"cannot be decompressed ({error})", str(path))) from error


def json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The location of each row of a JSON lines file, and the row; blank lines are skipped."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ProblemError(Problem("invalid-json", f"not valid JSON ({error})", where)) from None
        if not isinstance(row, dict):
            raise ProblemError(Problem("invalid-json", f"expected a JSON object, got {type(row).__name__}", where))
        yield where, row


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
