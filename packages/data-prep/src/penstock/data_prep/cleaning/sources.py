"""Sources of documents in an index: a file is known by its real path, however its path was written.

`crawl.jsonl:17`, `../data/crawl.jsonl:17` and the same line behind a symbolic link are one document. Sources that name
no file, such as those of a data set of the hub, stay as they are.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

_LINE = re.compile(r"(?s)(.+)(:\d+)")
_FILES = 1024  # the documents of a file come one after the other


class Sources:
    """Spellings of sources, as of the working directory that this was made in."""

    def __init__(self) -> None:
        self._here = os.path.join(os.path.realpath(os.curdir), "")
        self._real = lru_cache(_FILES)(_real)
        self._is_file = lru_cache(_FILES)(os.path.isfile)

    def stored(self, source: str) -> str:
        """What an index stores: the real path, if the source is a file or a line of one."""
        path, line = self._parted(source)
        return self._real(path) + line if self._is_file(path) else source

    def spellings(self, source: str) -> tuple[str, ...]:
        """What an index may have stored: the real path, though the file may be gone, and what earlier releases stored:
        the source as it was written, here or relative to the working directory."""
        path, line = self._parted(source)
        real = self._real(path) + line
        return tuple(dict.fromkeys((source, real, self.shown(real))))

    def shown(self, stored: str) -> str:
        """Relative to the working directory, if the file lies below it."""
        return stored.removeprefix(self._here)

    def _parted(self, source: str) -> tuple[str, str]:
        """A path and the number of a line with its colon, or nothing."""
        line = _LINE.fullmatch(source)
        return (source, "") if line is None or os.path.isfile(source) else (line[1], line[2])


def _real(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # no path: it has a NUL or a surrogate
        return path
