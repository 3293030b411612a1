"""Finds and decodes input files; anything wrong with a file is a `Problem` that names it."""

from __future__ import annotations

import glob
import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from penstock.hooks.problems import Problem, ProblemError

_CHUNK = 1 << 20


def find_files(
    paths: Sequence[str | Path], pattern: str, wanted: Callable[[Path], bool] = lambda _: True
) -> list[Path]:
    """The files behind files, folders and globs, in the order given and sorted within each. A file that has several
    paths (`a.txt`, `../here/a.txt`, a symbolic link) comes once, by the first of them.

    A folder means the files below it that match `pattern` and are `wanted`; names that start with a dot are left out.
    Raises `ProblemError` with every path that matches no file.
    """
    if isinstance(paths, (str, Path)):
        raise ValueError(f"paths is a single path, {paths!r}; pass a sequence of paths")
    found: dict[str, Path] = {}
    problems = [] if paths else [Problem("empty-corpus", "no paths are given", "paths")]
    for path in paths:
        files = _files_behind(path, pattern, wanted)
        if isinstance(files, Problem):
            problems.append(files)
        else:
            for file in files:
                found.setdefault(os.path.realpath(file), file)
    if problems:
        raise ProblemError(problems)
    return list(found.values())


def _files_behind(given: str | Path, pattern: str, wanted: Callable[[Path], bool]) -> list[Path] | Problem:
    try:
        path = Path(given).expanduser()
    except RuntimeError as error:  # ~name of a user that is not known
        return Problem("missing-file", f"file or folder not found ({error})", str(given), "write the path in full")
    if os.path.isfile(path):  # unlike `Path.is_file`, False for a name that is too long
        return [path]
    if os.path.isdir(path):
        return _files_below(path, pattern, wanted)
    if glob.has_magic(str(path)):
        files = sorted(file for file in map(Path, glob.glob(str(path), recursive=True)) if file.is_file())
        return files or Problem("empty-corpus", "no file matches", str(path), "check the pattern")
    return Problem("missing-file", "file or folder not found", str(path), f"relative paths start at {Path.cwd()}")


def _files_below(folder: Path, pattern: str, wanted: Callable[[Path], bool]) -> list[Path] | Problem:
    try:
        inside = [file for file in folder.glob(pattern) if not _hidden(file.relative_to(folder))]
    except (ValueError, NotImplementedError, IndexError) as error:  # pathlib's, and they differ between its versions
        what = f"'{pattern}' does not select files of a folder ({error})"
        return Problem("invalid-value", what, "pattern", "use a relative pattern, such as **/*.txt")
    files = sorted(file for file in inside if wanted(file) and file.is_file())
    return files or Problem("empty-corpus", f"no file in the folder matches '{pattern}'", str(folder), "check both")


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def fingerprint(files: Sequence[Path]) -> Mapping[str, Any]:
    """Changes when a file is added, removed or written to: names, sizes and times, not contents."""
    digest = hashlib.sha256()
    for file in files:
        status = _status(file)
        digest.update(os.fsencode(file.name) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return {"files": len(files), "sha256": digest.hexdigest()}


def _status(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:  # removed since it was found
        fix = "leave the files alone while they are read"
        raise ProblemError(Problem("unreadable-file", f"cannot be read ({error.strerror})", str(file), fix)) from error


def import_extra(module: str, extra: str, where: str) -> Any:
    """Imports an optional dependency; raises a `ProblemError` that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        fix = f"install it with `uv add 'penstock-data-prep[{extra}]'`"
        raise ProblemError(Problem("missing-extra", f"needs the package '{module}'", where, fix)) from error


def split_stream(stream: BinaryIO, separator: bytes) -> Iterator[tuple[int, bytes]]:
    """Pieces between separators with their byte offsets; holds at most one piece and one chunk in memory."""
    buffer = bytearray()
    offset = searched = 0
    while chunk := stream.read(_CHUNK):
        buffer += chunk
        start = 0
        while (end := buffer.find(separator, searched)) >= 0:
            yield offset + start, bytes(buffer[start:end])
            start = searched = end + len(separator)
        del buffer[:start]
        offset += start
        searched = max(0, len(buffer) - len(separator) + 1)
    yield offset, bytes(buffer)


def decode(data: bytes, path: Path, offset: int = 0) -> str:
    """UTF-8 to text, without a byte order mark at the file's start; `offset` is where in the file `data` begins.

    Raises `ProblemError` with the offset of the first byte that is not text: a NUL or invalid UTF-8.
    """
    nul = data.find(b"\0")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if nul < 0 or error.start < nul:
            raise _not_text(path, offset + error.start, f"invalid UTF-8, 0x{data[error.start]:02x}") from None
    if nul >= 0:
        raise _not_text(path, offset + nul, "a NUL byte")
    return text.removeprefix("\ufeff") if offset == 0 else text


def _not_text(path: Path, offset: int, what: str) -> ProblemError:
    fix = "leave the file out (`pattern` selects the files of a folder) or convert it to UTF-8"
    return ProblemError(Problem("not-text", f"{what} at byte {offset}: not a text file", str(path), fix))
