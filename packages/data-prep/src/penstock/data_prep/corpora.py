"""Sources of text. Each yields its documents in a fixed order, and names file and line if one cannot be read."""

from __future__ import annotations

import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.data_prep.builtin_docs import builtin_documents
from penstock.data_prep.files import decode, find_files, fingerprint, import_extra, split_stream
from penstock.hooks.compressed import open_input
from penstock.hooks.contracts import Document
from penstock.hooks.json_lines import is_json_lines, json_rows
from penstock.hooks.problems import Problem, ProblemError, did_you_mean


class PythonStdlib:
    """The source files of the running interpreter's standard library, sorted by path: about 12 MB of real text that
    every machine has. With `tests`, its test suites too (31 MB).

    Installed packages are left out, and so are `_sysconfigdata*` and `config-*`, which are build logs of one machine.
    Files are decoded according to PEP 263; those that cannot be decoded are counted in `skipped`. With `docstrings`,
    one document per built-in module follows, with the docstrings of its members written in C.
    """

    def __init__(self, *, tests: bool = False, docstrings: bool = True) -> None:
        self._excluded = {"site-packages", "dist-packages", "__pycache__"}
        self._excluded |= set() if tests else {"test", "tests", "idle_test"}
        self._docstrings = docstrings
        self.skipped = 0

    def documents(self) -> Iterator[Document]:
        self.skipped = 0
        root = _stdlib_folder()
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root)
            if self._wanted(relative):
                text = _python_source(path)
                if text is None:
                    self.skipped += 1
                elif text.strip():
                    yield Document(text, f"stdlib/{relative.as_posix()}")
        if self._docstrings:
            yield from builtin_documents()

    def fingerprint(self) -> Mapping[str, Any]:
        return {"python": sys.version}

    def _wanted(self, relative: Path) -> bool:
        built = relative.name.startswith("_sysconfigdata") or relative.parts[0].startswith("config-")
        return not built and self._excluded.isdisjoint(relative.parts)


def _stdlib_folder() -> Path:
    import sysconfig

    root = Path(sysconfig.get_path("stdlib"))
    if not any(root.glob("*.py")):
        what = "this Python has no standard library sources (they are zipped or not installed)"
        fix = "use a Python with sources, such as one from `uv python install`, or the corpus `text`"
        raise ProblemError(Problem("missing-stdlib", what, str(root), fix))
    return root


def _python_source(path: Path) -> str | None:
    """The text as the interpreter decodes it, or None if the interpreter would refuse it."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise ProblemError(Problem("unreadable-file", f"cannot be read ({error.strerror})", str(path))) from error


class TextCorpus:
    """UTF-8 text files: files, folders (the files that match `pattern`) and globs, plain or .gz, .bz2, .xz, .zst.

    Each file is one document unless `separator` splits it into several. Newlines around a separator are dropped, and so
    are blank documents.
    """

    def __init__(self, paths: Sequence[str | Path], *, pattern: str = "**/*", separator: str | None = None) -> None:
        if separator == "":
            raise ProblemError(Problem("invalid-value", "the separator is empty", "separator", "leave it out"))
        if separator is not None and not _is_unicode(separator):
            what = "the separator has a lone surrogate, which no text contains"
            raise ProblemError(Problem("invalid-value", what, "separator", "write valid Unicode"))
        self._paths = paths
        self._pattern = pattern
        self._separator = separator

    def documents(self) -> Iterator[Document]:
        for path in self._files():
            yield from self._whole(path) if self._separator is None else self._split(path, self._separator)

    def fingerprint(self) -> Mapping[str, Any]:
        return fingerprint(self._files())

    def _files(self) -> list[Path]:
        return find_files(self._paths, self._pattern)

    def _whole(self, path: Path) -> Iterator[Document]:
        with open_input(path) as stream:
            text = decode(stream.read(), path)
        if text.strip():
            yield Document(text, str(path))

    def _split(self, path: Path, separator: str) -> Iterator[Document]:
        with open_input(path) as stream:
            for number, (offset, piece) in enumerate(split_stream(stream, separator.encode()), 1):
                text = decode(piece, path, offset).strip("\r\n")
                if text.strip():
                    yield Document(text, f"{path}:{number}")


class JsonLines:
    """One JSON object per line, the text under `field` and its address under `url`, which a line may lack; plain or
    .gz, .bz2, .xz, .zst. Blank lines are skipped."""

    def __init__(self, paths: Sequence[str | Path], *, field: str = "text", url: str | None = None) -> None:
        self._paths = paths
        self._field = field
        self._url = url

    def documents(self) -> Iterator[Document]:
        for path in self._files():
            for where, row in json_rows(path):
                yield _document_of(row, self._field, self._url, where)

    def fingerprint(self) -> Mapping[str, Any]:
        return fingerprint(self._files())

    def _files(self) -> list[Path]:
        return find_files(self._paths, "**/*.jsonl*", is_json_lines)


class Parquet:
    """The string column `field` of Parquet files, row by row, and the addresses in the column `url`. Needs the extra
    `parquet`."""

    def __init__(self, paths: Sequence[str | Path], *, field: str = "text", url: str | None = None) -> None:
        self._paths = paths
        self._field = field
        self._url = url

    def documents(self) -> Iterator[Document]:
        for path in self._files():
            yield from self._rows(path)

    def fingerprint(self) -> Mapping[str, Any]:
        return fingerprint(self._files())

    def _files(self) -> list[Path]:
        return find_files(self._paths, "**/*.parquet")

    def _rows(self, path: Path) -> Iterator[Document]:
        pyarrow = import_extra("pyarrow", "parquet", str(path))
        parquet = import_extra("pyarrow.parquet", "parquet", str(path))
        try:
            with parquet.ParquetFile(path) as file:
                columns = [self._field] if self._url is None else [self._field, self._url]
                for column in columns:
                    _require_field(column, file.schema_arrow.names, str(path))
                batches = file.iter_batches(batch_size=1024, columns=columns)
                rows = (row for batch in batches for row in batch.to_pylist())
                for number, row in enumerate(rows, 1):
                    yield _document_of(row, self._field, self._url, f"{path}:{number}")
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ProblemError(Problem("damaged-file", f"cannot be read as Parquet ({error})", str(path))) from error


class HuggingFaceDataset:
    """The string column `field` of a dataset that the `datasets` library loads, from the hub or from a local folder
    (including one written by `save_to_disk`). Needs the extra `hf`."""

    def __init__(
        self,
        name: str,
        *,
        subset: str | None = None,
        split: str = "train",
        field: str = "text",
        streaming: bool = True,
        url: str | None = None,
    ) -> None:
        self._name = name
        self._subset = subset
        self._split = split
        self._field = field
        self._streaming = streaming
        self._url = url

    def documents(self) -> Iterator[Document]:
        for number, row in enumerate(self._rows()):
            yield _document_of(row, self._field, self._url, f"{self._name}:{self._split}:{number}")

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        datasets = import_extra("datasets", "hf", self._name)
        try:
            yield from self._load(datasets)
        except (datasets.exceptions.DatasetsError, OSError, ValueError, KeyError) as error:
            what = f"the dataset cannot be loaded ({type(error).__name__}: {error})"
            fix = "check the name, the subset, the split and the network"
            raise ProblemError(Problem("missing-dataset", what, f"{self._name}:{self._split}", fix)) from error

    def _load(self, datasets: Any) -> Any:
        folder = Path(self._name)
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(self._name)[self._split]
        if (folder / "state.json").is_file():
            return datasets.load_from_disk(self._name)
        return datasets.load_dataset(self._name, self._subset, split=self._split, streaming=self._streaming)


def _document_of(row: Mapping[str, Any], field: str, url: str | None, where: str) -> Document:
    """A document of a row. Its address is None where the row has none, or null. One that is no string, such as a
    number, is written as one: it is no URL then, and stages count it among those that cannot be read."""
    _require_field(field, row, where)
    address = None if url is None else row.get(url)
    return Document(_text_of(row, field, where), where, None if address is None else str(address))


def _text_of(row: Mapping[str, Any], field: str, where: str) -> str:
    text = row[field]
    if not isinstance(text, str):
        kind = "null" if text is None else type(text).__name__
        raise ProblemError(Problem("invalid-field", f"field '{field}' is {kind}, not a string", where))
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON escapes can spell a lone surrogate, UTF-8 cannot
        what = f"field '{field}' has a lone surrogate, {text[error.start]!r}, at character {error.start}"
        raise ProblemError(Problem("invalid-field", what, where, "rewrite it from valid Unicode")) from None
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_field(field: str, known: Any, where: str) -> None:
    if field not in known:
        fix = did_you_mean(field, known)
        raise ProblemError(Problem("unknown-field", f"unknown field '{field}'", where, fix))
