"""Folders that are complete or absent, whatever kills the process that makes them, and one maker at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.hooks.atomic import publish


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an advisory lock that the kernel releases when the process ends in whatever way."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The one before unlinks the file before it lets go: a lock on a file that has lost its name is no lock.
            if not _is_named(path, file.fileno()):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_named(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A hidden folder that becomes `folder` at the end, or goes away. The caller holds the lock, so what an earlier
    process left there belongs to nobody."""
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    try:
        yield partial
        publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
