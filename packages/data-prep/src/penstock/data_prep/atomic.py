"""Folders that are complete or absent, even if the process that writes them is killed; one writer at a time."""

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
    """Holds an advisory lock that the kernel releases when the process ends, however it ends."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The previous holder unlinks the file before releasing it: a lock on an unlinked file excludes nobody.
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
    """A hidden folder that is renamed to `folder` at the end, or removed after a failure. The caller holds the lock, so
    leftovers of an earlier process can be deleted."""
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    try:
        yield partial
        publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
