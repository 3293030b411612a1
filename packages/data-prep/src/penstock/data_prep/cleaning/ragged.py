"""Rows of different lengths on disk: NAME.values holds one after another, NAME.ends where each ends (8 bytes a row)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import failed

END = np.dtype("<i8")
Block: TypeAlias = tuple[NDArray[Any], NDArray[np.int64]]
"""Rows one after another, and the length of each."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """`count` rows of numbers of one kind."""

    path: Path
    kind: np.dtype[Any]
    count: int

    @property
    def values(self) -> Path:
        return self.path.with_name(f"{self.path.name}.values")

    @property
    def ends(self) -> Path:
        return self.path.with_name(f"{self.path.name}.ends")

    def check(self) -> None:
        """Raises `ProblemError` if a file is missing or has another size than it was written with."""
        for path in (self.ends, self.values):
            if not path.is_file():
                raise failed("damaged-file", "missing", str(path))
            size = path.stat().st_size
            expected = self.count * END.itemsize if path == self.ends else self._end(self.count) * self.kind.itemsize
            if size != expected:
                raise failed("damaged-file", f"{size} bytes, not {expected}", str(path))

    def row(self, place: int) -> NDArray[Any]:
        start, stop = self._end(place), self._end(place + 1)
        return np.fromfile(self.values, self.kind, stop - start, offset=start * self.kind.itemsize)

    def blocks(self, keep: NDArray[np.bool_], max_bytes: int) -> Iterator[Block]:
        """The rows that `keep` [count] names, in blocks of about `max_bytes`, or of one row that is longer."""
        place = 0
        while place < self.count:
            start = self._end(place)
            ahead = min(self.count - place, max(1, max_bytes // (4 * END.itemsize)))
            ends = np.fromfile(self.ends, END, ahead, offset=place * END.itemsize)
            rows = max(1, int(np.searchsorted(ends, start + max_bytes // self.kind.itemsize, "right")))
            lengths = np.diff(ends[:rows], prepend=END.type(start))
            values = np.fromfile(self.values, self.kind, int(lengths.sum()), offset=start * self.kind.itemsize)
            kept = keep[place : place + rows]
            yield values[np.repeat(kept, lengths)], lengths[kept]
            place += rows

    def _end(self, rows: int) -> int:
        """Where the first `rows` rows end."""
        if not rows:
            return 0
        return int(np.fromfile(self.ends, END, 1, offset=(rows - 1) * END.itemsize)[0])


def write_ragged(path: Path, kind: np.dtype[Any], blocks: Iterable[Block]) -> Ragged:
    """Writes blocks of rows; the caller publishes their folder."""
    count = end = 0
    ragged = Ragged(path, kind, 0)
    with ragged.values.open("xb") as values_file, ragged.ends.open("xb") as ends_file:
        for values, lengths in blocks:
            # numpy's own `tofile` does not say why it could not write.
            values_file.write(np.ascontiguousarray(values, kind).data)
            ends_file.write((np.cumsum(lengths, dtype=END) + END.type(end)).data)
            count, end = count + len(lengths), end + int(lengths.sum())
    return Ragged(path, kind, count)


def block_of(rows: Iterable[NDArray[Any]], kind: np.dtype[Any]) -> Block:
    """A block of these rows."""
    rows = list(rows)
    lengths = np.array([len(row) for row in rows], dtype=END)
    return (np.concatenate(rows) if rows else np.empty(0, kind)), lengths
