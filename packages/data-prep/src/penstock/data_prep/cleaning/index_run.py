"""One run of an index on disk: documents that were added together, or runs that were merged.

A folder with the sorted band keys of the documents, the sorted hashes of their sources, their sources, and their sets
of shingles. A document is known by its place in the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.data_prep.cleaning.documents import file_sha256
from penstock.data_prep.cleaning.ragged import Block, Ragged, block_of, write_ragged
from penstock.data_prep.cleaning.runs import KEY, PLACE, Entries, Keys, Places, Stored, entries_of, merge, write_run
from penstock.hooks.problems import failed

BYTE = np.dtype(np.uint8)
GONE = np.iinfo(PLACE).max


@dataclass(frozen=True, slots=True)
class IndexRun:
    """The run in `folder`; `entries` counts its band keys, and `removed`, ascending, are the places that no longer
    count."""

    folder: Path
    documents: int
    entries: int
    removed: Places

    @property
    def bands(self) -> Stored:
        return Stored(self.folder / "bands", self.entries)

    @property
    def hashes(self) -> Stored:
        """Of the sources."""
        return Stored(self.folder / "hashes", self.documents)

    @property
    def sources(self) -> Ragged:
        return Ragged(self.folder / "sources", BYTE, self.documents)

    @property
    def sets(self) -> Ragged:
        return Ragged(self.folder / "sets", KEY, self.documents)

    def check(self) -> None:
        """Raises `ProblemError` if a file is missing or is not as long as it was written."""
        for part in (self.bands, self.hashes, self.sources, self.sets):
            part.check()

    def verify(self, sha256: Mapping[str, str]) -> None:
        """Raises `ProblemError` if a file does not have the bytes that were written."""
        self.check()
        for name, expected in sha256.items():
            if file_sha256(self.folder / name) != expected:
                raise failed("damaged-file", "its SHA-256 is not that of what was written", str(self.folder / name))

    def source(self, place: int) -> str:
        return self.sources.row(place).tobytes().decode("utf-8", "surrogatepass")

    def places_of(self, sources: Iterable[str]) -> dict[str, int]:
        """The places of the documents with one of these sources."""
        wanted = set(sources)
        hashes = np.unique(np.array([_hash(source) for source in wanted], KEY))
        found: dict[str, int] = {}
        starts, stops = self.hashes.ranges(hashes)
        for at in np.flatnonzero(starts < stops):
            for place in self._still(self.hashes.places(int(starts[at]), int(stops[at]))).tolist():
                source = self.source(place)
                if source in wanted:
                    found[source] = place
        return found

    def candidates(self, keys_NB: Keys) -> Iterator[tuple[int, int]]:
        """(row, place) of the documents that share the key of a band with a row, each once, by row."""
        wanted = np.unique(keys_NB)
        starts, stops = self.bands.ranges(wanted)
        at_NB = np.searchsorted(wanted, keys_NB)
        for row in np.flatnonzero((starts < stops)[at_NB].any(axis=1)).tolist():
            shared = [self.bands.places(int(starts[at]), int(stops[at])) for at in at_NB[row] if starts[at] < stops[at]]
            for place in self._still(np.unique(np.concatenate(shared))).tolist():
                yield row, place

    def _still(self, places: Places) -> Places:
        """Those of these places that were not removed."""
        if places.size and places.max() >= self.documents:
            raise failed("damaged-file", "names documents that it has not", str(self.folder))
        if not self.removed.size:
            return places
        at = np.minimum(np.searchsorted(self.removed, places), self.removed.size - 1)
        return places[self.removed[at] != places]


def write_index_run(
    folder: Path, keys_NB: Keys, sources: Sequence[str], sets: Sequence[NDArray[np.uint64]]
) -> tuple[int, int]:
    """Writes a run of new documents, and returns how many documents and band keys it has."""
    names = [np.frombuffer(source.encode("utf-8", "surrogatepass"), BYTE) for source in sources]
    hashes = np.array([_hash(source) for source in sources], KEY).reshape(-1, 1)
    write_run(folder / "hashes", [entries_of(hashes, 0)])
    write_ragged(folder / "sources", BYTE, [block_of(names, BYTE)])
    write_ragged(folder / "sets", KEY, [block_of(sets, KEY)])
    return len(sources), len(write_run(folder / "bands", [entries_of(keys_NB, 0)]))


def merge_index_runs(folder: Path, runs: Sequence[IndexRun], max_bytes: int) -> tuple[int, int]:
    """Writes the documents of these runs, in order and without those removed, as one run."""
    kept = [np.ones(run.documents, dtype=bool) for run in runs]
    for keep, run in zip(kept, runs, strict=True):
        keep[run.removed] = False
    is_kept = np.concatenate(kept)
    new_places = np.cumsum(is_kept, dtype=PLACE) - PLACE.type(1)
    new_places[~is_kept] = GONE
    firsts = np.cumsum([0, *(run.documents for run in runs)]).tolist()

    def entries(parts: Sequence[Stored]) -> Iterator[Entries]:
        shifted = [_Shifted(part, first) for part, first in zip(parts, firsts, strict=False)]
        for keys, places in merge(shifted, max_bytes):
            new = new_places[places]
            yield keys[new != GONE], new[new != GONE]

    def rows(parts: Sequence[Ragged]) -> Iterator[Block]:
        for part, keep in zip(parts, kept, strict=True):
            yield from part.blocks(keep, max_bytes)

    write_run(folder / "hashes", entries([run.hashes for run in runs]))
    write_ragged(folder / "sources", BYTE, rows([run.sources for run in runs]))
    write_ragged(folder / "sets", KEY, rows([run.sets for run in runs]))
    return int(is_kept.sum()), len(write_run(folder / "bands", entries([run.bands for run in runs])))


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a run, by name."""
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())}


@dataclass(frozen=True, slots=True)
class _Shifted:
    """A run whose places count from `by`."""

    run: Stored
    by: int

    def __len__(self) -> int:
        return len(self.run)

    def read(self, start: int, stop: int) -> Entries:
        keys, places = self.run.read(start, stop)
        return keys, places + PLACE.type(self.by)


def _hash(source: str) -> int:
    """Never `NO_KEY`."""
    return xxhash.xxh3_64_intdigest(source.encode("utf-8", "surrogatepass")) | 1
