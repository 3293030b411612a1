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
    """The file of a data set: `path` where a setting names it, else `name` in the context's folder of data, plain or
    compressed. None where neither is given. Raises `ProblemError` where the folder does not have it."""
    if path is not None or context.data is None:
        return path
    candidates = [context.data / f"{name}{suffix}" for suffix in ("", *_DECOMPRESS)]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        what = f"the folder has no {name}, nor {name}.xz or {name}.gz"
        fix = "put it there, or name another folder with --data"
        raise ProblemError(Problem("missing-file", what, str(context.data), fix))
    return found


def read_text(path: Path) -> str:
    """A text file, byte for byte, decompressed where its name says that it is compressed."""
    try:
        stored = path.read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise ProblemError(Problem("missing-file", what, str(path), "name a file with `path` or --data")) from error
    try:
        return _DECOMPRESS.get(path.suffix, bytes)(stored).decode("utf-8")  # not read_text: it would rewrite line ends
    except UnicodeDecodeError as error:
        fix = "decompress it first, or give it the ending .xz or .gz"
        raise ProblemError(Problem("unreadable-file", "is not UTF-8 text", str(path), fix)) from error
    except (lzma.LZMAError, OSError, EOFError) as error:
        raise ProblemError(Problem("damaged-file", f"cannot be decompressed ({error})", str(path))) from error


def json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each row of a file of JSON lines is, and the row; lines without text are passed over."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ProblemError(Problem("invalid-json", f"not a line of JSON ({error})", where)) from None
        if not isinstance(row, dict):
            raise ProblemError(Problem("invalid-json", f"not a JSON object but a {type(row).__name__}", where))
        yield where, row


def texts_of(rows: Iterable[tuple[str, Mapping[str, Any]]], column: str) -> Iterator[tuple[str, str]]:
    """Where each row is, and the text in a column of it; raises `ProblemError` for the first row that has none."""
    for where, row in rows:
        if column not in row:
            what = f"there is no column '{column}'"
            raise ProblemError(
                Problem("unknown-field", what, where, f"the row has {', '.join(map(str, row)) or 'none'}")
            )
        text = row[column]
        if not isinstance(text, str):
            what = f"column '{column}' is {type(text).__name__}, not a text"
            raise ProblemError(Problem("invalid-field", what, where))
        yield where, text


def hub_rows(repository: str, name: str | None, split: str, file: str) -> list[Mapping[str, Any]]:
    """Rows of a split of a data set on the hub; `file` is what a user can give instead."""
    try:
        import datasets

        rows: Any = datasets.load_dataset(repository, name, split=split)
        return list(rows)
    except ImportError as error:
        fix = f"`uv add 'penstock-eval-suite[hf]'`, or set `path` to a local {file}"
        raise ProblemError(Problem("missing-package", "the package 'datasets' is needed", repository, fix)) from error
    except Exception as error:  # offline, the hub's client raises errors of four libraries
        what = f"the hub does not give {repository} ({type(error).__name__})"
        raise ProblemError(Problem("hub-unreachable", what, repository, f"set `path` to a local {file}")) from error
