"""Sorted runs of (key, place): sorted in memory, written to disk, and merged within a bound of memory.

A run on disk is two files of little-endian numbers: keys (8 bytes each, ascending) and places (4 bytes each, ascending
where keys are equal). Files are read in blocks and not mapped, because mapped pages count as the process's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import failed

Keys: TypeAlias = NDArray[np.uint64]
Places: TypeAlias = NDArray[np.uint32]
Entries: TypeAlias = tuple[Keys, Places]

KEY, PLACE = np.dtype("<u8"), np.dtype("<u4")
NO_KEY = 0
"""Stands in the place of a key that matches nothing; entries leave it out."""
BLOCK = 4096
"""Keys that a search reads at once: 32 KiB."""
BYTES_TO_SORT = 48
"""Memory that an entry takes while it is sorted: keys and places before and after (24), the order of 8 bytes, and what
the sort itself needs."""


@dataclass(frozen=True, slots=True)
class Held:
    """A run in memory."""

    keys: Keys
    places: Places

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, start: int, stop: int) -> Entries:
        return self.keys[start:stop], self.places[start:stop]


@dataclass(frozen=True, slots=True)
class Stored:
    """A run on disk: NAME.keys and NAME.places."""

    path: Path
    length: int

    def __len__(self) -> int:
        return self.length

    def read(self, start: int, stop: int) -> Entries:
        stop = min(stop, self.length)
        return self._read("keys", KEY, start, stop), self._read("places", PLACE, start, stop)

    def check(self) -> None:
        """Raises `ProblemError` if a file is missing or has another size than it was written with."""
        for suffix, kind in (("keys", KEY), ("places", PLACE)):
            path = self._file(suffix)
            size = path.stat().st_size if path.is_file() else 0
            if size != self.length * kind.itemsize:
                raise failed("damaged-file", f"{size} bytes, not {self.length * kind.itemsize}", str(path))

    def ranges(self, wanted: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the entries with each of these keys begin and end; `wanted` is ascending."""
        return self._ranks(wanted, "left"), self._ranks(wanted, "right")

    def places(self, start: int, stop: int) -> Places:
        """Of the entries from `start` up to `stop`."""
        return self._read("places", PLACE, start, stop)

    def _ranks(self, wanted: Keys, side: Literal["left", "right"]) -> NDArray[np.int64]:
        """`np.searchsorted` in the keys on disk, of which it reads the blocks where the wanted ones may stand."""
        ranks = np.empty(len(wanted), np.int64)
        parts = [(0, len(wanted), 0, self.length)]
        while parts:
            first, last, low, high = parts.pop()
            if first == last:
                continue
            if high - low <= BLOCK:
                keys = self._read("keys", KEY, low, high)
                ranks[first:last] = low + np.searchsorted(keys, wanted[first:last], side)
            else:
                middle = (low + high) // 2
                key = self._read("keys", KEY, middle, middle + 1)[0]
                before = np.searchsorted(wanted[first:last], key, "right" if side == "left" else "left")
                cut = first + int(before)
                parts += [(first, cut, low, middle), (cut, last, middle + 1, high)]
        return ranks

    def _file(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{suffix}")

    def _read(
        self, suffix: str, kind: np.dtype[np.unsignedinteger], start: int, stop: int
    ) -> NDArray[np.unsignedinteger]:
        numbers = np.fromfile(self._file(suffix), kind, stop - start, offset=start * kind.itemsize)
        if len(numbers) != stop - start:
            raise failed("damaged-file", "shorter than it was written", str(self._file(suffix)))
        return numbers


class Run(Protocol):
    """Entries, ascending."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Entries:
        """Those from `start` up to `stop`, or up to the end."""
        ...


def write_run(path: Path, blocks: Iterable[Entries]) -> Stored:
    """Writes ascending blocks of entries as PATH.keys and PATH.places; the caller publishes their folder."""
    length = 0
    with ExitStack() as stack:
        keys_file = stack.enter_context(path.with_name(f"{path.name}.keys").open("xb"))
        places_file = stack.enter_context(path.with_name(f"{path.name}.places").open("xb"))
        for keys, places in blocks:
            # numpy's own `tofile` does not say why it could not write.
            keys_file.write(np.ascontiguousarray(keys, KEY).data)
            places_file.write(np.ascontiguousarray(places, PLACE).data)
            length += len(keys)
    return Stored(path, length)


def sorted_entries(keys: Keys, places: Places) -> Entries:
    """By key, and by their order here where keys are equal."""
    order = np.argsort(keys, kind="stable")
    return keys[order], places[order]


def entries_of(keys_NB: Keys, first: int) -> Entries:
    """Sorted entries of the rows of N documents, of which the first has place `first`."""
    documents, bands = keys_NB.shape
    keys, places = keys_NB.reshape(-1), np.repeat(np.arange(first, first + documents, dtype=PLACE), bands)
    is_key = keys != NO_KEY
    if not is_key.all():
        keys, places = keys[is_key], places[is_key]
    return sorted_entries(keys, places)


def sort_into_runs(shards: Iterable[Keys], folder: Path, max_bytes: int) -> list[Run]:
    """The keys [n, B] of all shards, in order, as sorted runs that take `max_bytes` to sort. What fits into one run
    stays in memory; otherwise each is written to `folder`."""
    runs: list[Run] = []
    place = begin = 0
    waiting: list[Keys] = []

    def flush(last: bool) -> None:
        nonlocal begin
        if not waiting:
            return
        keys_NB = np.concatenate(waiting)
        waiting.clear()
        entries = entries_of(keys_NB, begin)
        begin = place
        if last and not runs:
            runs.append(Held(*entries))
        else:
            runs.append(write_run(folder / f"run-{len(runs)}", [entries]))

    room = 0
    for shard in shards:
        rows = max(1, max_bytes // (BYTES_TO_SORT * shard.shape[1]))
        at = 0
        while at < len(shard):
            if room == 0:
                flush(last=False)
                room = rows
            taken = np.array(shard[at : at + room])
            waiting.append(taken)
            at, place, room = at + len(taken), place + len(taken), room - len(taken)
    flush(last=True)
    return runs


def merge(runs: Sequence[Run], max_bytes: int) -> Iterator[Entries]:
    """The entries of all runs, ascending, in blocks; all entries of a key are in one block.

    Takes about `max_bytes`, and more only where one key has more entries than that.
    """
    block = max(1, max_bytes // (BYTES_TO_SORT * max(1, len(runs))))
    cursors = [_Cursor(run, block) for run in runs]
    for cursor in cursors:
        cursor.fill()
    while any(len(cursor.keys) for cursor in cursors):
        # Below the least of the last keys read, nothing can come any more.
        ends = [cursor.keys[-1] for cursor in cursors if cursor.has_more]
        end = min(ends) if ends else None
        taken = [cursor.take_below(end) for cursor in cursors]
        keys, places = (np.concatenate(each) for each in zip(*taken, strict=True))
        if len(keys):
            yield sorted_entries(keys, places)
        for cursor in cursors:
            if cursor.has_more and cursor.keys[-1] == end:
                cursor.fill()


def equal_keys(keys: Keys) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where groups of two equal keys or more begin in sorted keys, and how many keys each has."""
    edges = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1], [True])))
    sizes = np.diff(edges)
    return edges[:-1][sizes > 1], sizes[sizes > 1]


class _Cursor:
    """Reads a run block by block."""

    def __init__(self, run: Run, block: int) -> None:
        self._run, self._block, self._read = run, block, 0
        self.keys: Keys = np.empty(0, KEY)
        self.places: Places = np.empty(0, PLACE)

    @property
    def has_more(self) -> bool:
        """True if entries are left that are not read."""
        return self._read < len(self._run)

    def fill(self) -> None:
        keys, places = self._run.read(self._read, self._read + self._block)
        self._read += len(keys)
        self.keys, self.places = np.concatenate((self.keys, keys)), np.concatenate((self.places, places))

    def take_below(self, end: np.uint64 | None) -> Entries:
        cut = len(self.keys) if end is None else int(np.searchsorted(self.keys, end, "left"))
        taken = self.keys[:cut], self.places[:cut]
        self.keys, self.places = self.keys[cut:], self.places[cut:]
        return taken
