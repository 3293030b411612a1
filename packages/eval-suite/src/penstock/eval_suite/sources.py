"""Data sets of tasks: local files in the layout of the Hugging Face hub, a clone of its repository, or the hub itself.

A file is JSON lines or CSV with a header, plain or compressed, or Parquet. Every row has a place, such as
`lambada_test.jsonl:7`, that problems name.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from penstock.eval_suite.hub import offline_if_unreachable
from penstock.hooks.compressed import open_input, uncompressed_name
from penstock.hooks.contracts import TaskContext
from penstock.hooks.json_lines import json_rows
from penstock.hooks.problems import Problem, ProblemError

_SUFFIXES = ("", ".xz", ".gz", ".bz2", ".zst")

Row: TypeAlias = "tuple[str, Mapping[str, Any]]"
"""The place of a row, and its columns."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """One split of a data set: its `repository`, its `name` there (None if it has no names) and `split` on the hub, and
    its `file` in a folder of local data sets, such as `lambada/lambada_test.jsonl`."""

    repository: str
    name: str | None
    split: str
    file: str

    def place(self, path: Path | None, context: TaskContext) -> Path | None:
        """Where the data set is: `path` if it is set, a clone of the repository in the context's data folder, or the
        file there, plain or compressed. None means the hub. Raises `ProblemError` if the data folder has neither."""
        if path is not None or context.data is None:
            return path
        folder = context.data / PurePosixPath(self.file).parent
        return folder if (folder / "README.md").is_file() else local_file(None, context, self.file)

    def rows(self, path: Path | None, context: TaskContext) -> Iterator[Row]:
        """All rows; raises `ProblemError` if the data set is empty, and for whatever keeps it from being read."""
        place = self.place(path, context)
        if place is None:
            found = hub_rows(self.repository, self.name, self.split, PurePosixPath(self.file).name)
            rows = located(found, self.repository, self.split)
        elif place.is_dir():
            rows = located(clone_rows(place, self.name, self.split), place, self.split)
        else:
            rows = local_rows(place)
        return some_rows(rows, self.repository if place is None else str(place))


def local_file(path: Path | None, context: TaskContext, name: str) -> Path | None:
    """The file of a data set: `path` if it is set, else `name` in the context's data folder, plain or compressed. None
    if neither is given. Raises `ProblemError` if the folder does not have the file."""
    if path is not None or context.data is None:
        return path
    found = compressed_or_not(context.data / name)
    if found is None:
        what = f"the folder has no {name}, plain or compressed ({', '.join(_SUFFIXES[1:])})"
        fix = "put it there, or name another folder with --data"
        raise ProblemError(Problem("missing-file", what, str(context.data), fix))
    return found


def compressed_or_not(path: Path) -> Path | None:
    """The file, or its compressed form; None if there is neither."""
    candidates = (path.with_name(f"{path.name}{suffix}") for suffix in _SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def require_folder(path: Path, fix: str) -> None:
    """Raises `ProblemError` if there is no folder."""
    if not path.is_dir():
        what = "not a folder" if path.exists() else "folder not found"
        raise ProblemError(Problem("missing-file", what, str(path), fix))


def file_of_split(folder: Path, name: str, split: str, splits: Sequence[str]) -> Path | None:
    """The file of a split in a folder, plain or compressed: for `dev` and the name `mmlu_{split}.jsonl`, the file
    `mmlu_dev.jsonl`. None if the folder lacks the files of all `splits`: it has another layout. Raises `ProblemError`
    if the folder lacks the file of this split alone."""
    found = {each: compressed_or_not(folder / name.replace("{split}", each)) for each in splits}
    if found[split] is None and any(found.values()):
        what = f"the folder has no {name.replace('{split}', split)}, plain or compressed ({', '.join(_SUFFIXES[1:])})"
        raise ProblemError(Problem("missing-file", what, str(folder), "put it there"))
    return found[split]


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


def local_rows(path: Path) -> Iterator[Row]:
    """The place of each row of a file, and the row: of Parquet and of CSV with a header by the file's name, of JSON
    lines otherwise."""
    _require_file(path)
    name = uncompressed_name(path)
    if is_parquet(path):
        yield from _parquet_rows(path)
    elif name.endswith(".csv"):
        yield from _csv_rows(path)
    else:
        yield from json_rows(path)


def is_parquet(path: Path) -> bool:
    return path.name.endswith(".parquet")


def csv_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The place of each line of a CSV file, and its cells."""
    reader = csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""), strict=True)
    try:
        yield from ((f"{path}:{reader.line_num}", cells) for cells in reader if cells)
    except csv.Error as error:
        where = f"{path}:{reader.line_num}"
        raise ProblemError(Problem("unreadable-file", f"not valid CSV ({error})", where, "repair the line")) from error


def some_rows(rows: Iterable[Row], where: str) -> Iterator[Row]:
    """The rows; raises `ProblemError` if `rows` is empty."""
    found = False
    for row in rows:
        found = True
        yield row
    if not found:
        raise ProblemError(Problem("no-items", "has no rows", where, "download it again, or give another file"))


def _csv_rows(path: Path) -> Iterator[Row]:
    lines = csv_lines(path)
    _, header = next(lines, ("", []))
    for where, cells in lines:
        if len(cells) != len(header):
            what = f"{len(cells)} cells under a header of {len(header)}"
            raise ProblemError(Problem("unreadable-file", what, where, "quote cells that contain a comma"))
        yield where, dict(zip(header, cells, strict=True))


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        fix = "install it with `uv add 'penstock-eval-suite[hf]'`, or convert the file to JSON lines"
        raise ProblemError(Problem("missing-package", "needs the package 'pyarrow'", str(path), fix)) from error
    try:
        with parquet.ParquetFile(path) as file:
            rows = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches())
            yield from ((f"{path}:{number}", row) for number, row in enumerate(rows, 1))
    except (pyarrow.ArrowException, OSError) as error:
        what = f"not a readable Parquet file ({_first_line(error)})"
        raise ProblemError(Problem("unreadable-file", what, str(path), "download it again")) from error


def located(rows: Iterable[Mapping[str, Any]], place: str | Path, split: str) -> Iterator[Row]:
    """Rows of a split, with their places."""
    return ((f"{place}:{split}:{number}", row) for number, row in enumerate(rows, 1))


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


def other_size(rows: int, published: int, unit: str) -> str:
    """What data of another size than the published set add to the names of metrics, such as `of-12-questions`; nothing
    for the published size."""
    return "" if rows == published else f"of-{rows}-{unit}"


def value_of(where: str, row: Mapping[str, Any], column: str) -> Any:
    """The value of the row in `column`; raises `ProblemError` if the row lacks the column."""
    if column not in row:
        what = f"unknown column '{column}'"
        raise ProblemError(Problem("unknown-field", what, where, f"the row has {', '.join(map(str, row)) or 'none'}"))
    return row[column]


def text_of(where: str, row: Mapping[str, Any], column: str) -> str:
    """The text in `column`; raises `ProblemError` if the row lacks the column, or the column holds no text."""
    return require_text(value_of(where, row, column), where, f"column '{column}'")


def require_text(value: Any, where: str, name: str) -> str:
    """The value, if it is valid text; raises `ProblemError` otherwise."""
    if not isinstance(value, str):
        found = "null" if value is None else type(value).__name__
        raise ProblemError(Problem("invalid-field", f"{name} is {found}, not a string", where))
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON escapes can spell half of a surrogate pair, UTF-8 cannot
        what = f"{name} has half of a surrogate pair at character {error.start}"
        raise ProblemError(Problem("invalid-field", what, where, "rewrite the line from valid Unicode")) from None
    return value


def texts_of(rows: Iterable[Row], column: str) -> Iterator[tuple[str, str]]:
    """The location of each row and its text in `column`; raises `ProblemError` for the first row without text."""
    return ((where, text_of(where, row, column)) for where, row in rows)


def hub_rows(repository: str, name: str | None, split: str, file: str, **arguments: Any) -> list[Mapping[str, Any]]:
    """Rows of a split of a data set on the hub; `file` is a local file that a user can provide instead."""
    fix = f"set `path` to a local {file}"
    _require_datasets(repository, fix)
    try:
        with offline_if_unreachable():
            return _load(repository, fix, name=name, split=split, **arguments)
    except ProblemError:
        raise
    except Exception as error:  # the hub's client raises errors of four libraries when offline
        what = f"{repository} cannot be loaded from the hub ({type(error).__name__})"
        raise ProblemError(Problem("hub-unreachable", what, repository, fix)) from error


def clone_rows(folder: Path, name: str | None, split: str) -> list[Mapping[str, Any]]:
    """Rows of a split of a local clone of a repository of the hub. Its card, README.md, says which files a name has;
    without a card, they are those in the folder of that name."""
    named: dict[str, Any] = {"name": name}
    if name is not None and not (folder / "README.md").is_file() and (folder / name).is_dir():
        named = {"data_dir": name}
    fix = "clone the hub's repository with all of its files, or set `path` to a file"
    _require_datasets(str(folder), fix)
    try:
        return _load(str(folder), fix, split=split, **named)
    except ProblemError:
        raise
    except Exception as error:  # a builder's errors have no base class
        what = f"not a data set in the hub's layout ({_first_line(error)})"
        raise ProblemError(Problem("unreadable-file", what, str(folder), fix)) from error


def _require_datasets(source: str, fix: str) -> None:
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        fix = f"install it with `uv add 'penstock-eval-suite[hf]'`, or {fix}"
        raise ProblemError(Problem("missing-package", "needs the package 'datasets'", source, fix)) from error


def _load(source: str, fix: str, **arguments: Any) -> list[Mapping[str, Any]]:
    import datasets

    try:
        rows: Any = datasets.load_dataset(source, **arguments)
    except ValueError as error:
        if "Unknown split" in str(error):  # datasets has no exception of its own for this
            raise ProblemError(Problem("unknown-split", _first_line(error), source, fix)) from error
        raise
    return list(rows)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
