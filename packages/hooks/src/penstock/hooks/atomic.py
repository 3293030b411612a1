"""Files and folders that are whole or absent, whatever stops their writer: an error, a full disk, a kill, a power cut.

A file is written to a hidden neighbour, flushed to disk, renamed, and the rename is flushed: a reader sees the old file
or the new one, and so does whoever looks after a power cut. A path has one writer at a time; what a killed writer left
of the neighbour is overwritten by the next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """A file to write and read, which becomes `path` at the end. After an error `path` is what it was before. Raises
    `ProblemError` for a device, a pipe or a folder, of which the first two would be gone."""
    if path.exists() and not path.is_file():
        raise ProblemError(Problem("cannot-write", "not a regular file", str(path), "give the name of a file"))
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces the file's content, whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Replaces the file's content with UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replaces the file's content with indented JSON, whole or not at all. What JSON has no form for is written as its
    `str`."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file; raises an OSError or a ValueError."""
    return parse_json(path.read_text(encoding="utf-8"))


def publish(folder: Path, path: Path) -> None:
    """Renames a finished flat folder to `path`, once every file in it is on disk."""
    sync_files(folder)
    folder.rename(path)
    sync(path.parent)


def sync_files(folder: Path) -> None:
    """Flushes the files of a flat folder, and their names, to disk."""
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Flushes a file's content, or the names inside a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
