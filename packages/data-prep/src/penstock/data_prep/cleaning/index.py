"""An index of documents on disk that finds near duplicates of new ones: add, remove, ask.

Documents are stored in runs (`index_run.py`): band keys, sources, and sets of shingles, with which candidates are
verified without their texts. Sets take 8 bytes a shingle, a little more than the text does. `index.json` names the runs
that count (`index_state.py`). It is replaced in one step, after the files that it names are on disk: a process that is
killed leaves the index as it was before or after the step, and the next writer removes leftovers.

One process writes at a time. Others may ask meanwhile.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.data_prep.atomic import building, locked
from penstock.data_prep.cleaning.documents import Progress
from penstock.data_prep.cleaning.index_run import IndexRun, hashes_of, merge_index_runs, write_index_run
from penstock.data_prep.cleaning.index_state import AGAIN, MANIFEST, IndexState, RunLine
from penstock.data_prep.cleaning.memory import MAX_RAM, too_small
from penstock.data_prep.cleaning.near import NearDuplicates, ShingleSet, jaccard_similarity
from penstock.data_prep.cleaning.sources import Sources
from penstock.hooks.contracts import Document
from penstock.hooks.problems import Problem, ProblemError, failed

Result = TypeVar("Result")
REPORT = 1000
"""Documents between two reports of progress."""
TEXT, DOCUMENT, KEY = 20, 1500, 80
"""Bytes that a character, a document and a band of it take while they are added: the text and its set of shingles, of
which writing makes a copy; the spellings of a source; keys are sorted."""
WORK = {"word": 40, "character": 100}
"""Bytes a character while the shingles of one text are made."""
MERGE = 16
"""Bytes a document while runs are merged."""


@dataclass(frozen=True, slots=True)
class Match:
    """A document of the index, and its Jaccard similarity to the one that was asked about. The path of a file below
    the working directory is relative to it, and otherwise absolute."""

    source: str
    jaccard: float


@dataclass(slots=True)
class Added:
    """What an addition did: documents that are new to the index, whose text it had otherwise, and that it had."""

    new: int = 0
    replaced: int = 0
    known: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """What an index holds: documents, those that were removed and still take room, runs, bytes of its files, and the
    settings that it was made with."""

    documents: int
    removed: int
    runs: int
    bytes: int
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, state: IndexState) -> Summary:
        removed, written = len(state.removed), sum(run.documents for run in state.runs)
        return cls(written - removed, removed, len(state.runs), state.bytes(), state.settings)


class NearIndex:
    """The index in `folder`, which is begun if the folder is empty, and begun anew with other settings if the index has
    no documents. A document is known by its source, and a file by its real path (`sources.py`).

    `near` makes keys and sets. Its description is stored, and an index of another description is refused. All that the
    index does stays within the `max_ram` of `near`, if no key of a band has more entries than fit.

    Raises `ProblemError` for an index of other settings, a folder of other files, damaged files, a `max_ram` that is
    too small, and where writing fails.
    """

    def __init__(self, folder: str | Path, near: NearDuplicates) -> None:
        self.folder, self.near = Path(folder), near
        if not (self.folder / MANIFEST).exists():
            self._begin()
        if self._is_other_and_empty():
            self._begin_anew()
        self._state().require_settings(near.describe())
        self._reading(lambda state: [run.check() for run in self._runs(state)])

    @classmethod
    def open(cls, folder: str | Path, max_ram: int = MAX_RAM) -> NearIndex:
        """The index in a folder, with the settings that it was made with. Raises `ProblemError` if it holds none."""
        return cls(folder, NearDuplicates.of(IndexState.read(Path(folder)).settings, max_ram))

    def __len__(self) -> int:
        return self._reading(lambda state: sum(run.documents for run in state.runs) - len(state.removed))

    def summary(self) -> Summary:
        """What the index holds."""
        return self._reading(Summary.of)

    def check(self) -> None:
        """Reads all files. Raises `ProblemError` if one has other bytes than were written."""
        self._reading(self._verify)

    def add(self, documents: Iterable[Document], progress: Progress = lambda stage, done, total: None) -> Added:
        """Adds documents; one whose source the index has is replaced, unless it has the same shingles.

        After an addition that was interrupted, the same one goes on. If its documents have different sources, it ends
        with the bytes of one that was not interrupted.
        """
        added, sources = Added(), Sources()
        with self._writing():
            self._merge_recent()  # a killed process may have left that to do
            for batch in self._batches(documents, progress):
                self._add({sources.stored(document.source): document for document in batch}, sources, added)
                batch.clear()
                self._merge_recent()
        return added

    def remove(self, sources: Iterable[str]) -> int:
        """Removes documents by source, and returns how many of them the index had."""
        spellings = Sources().spellings
        wanted = {spelling for source in sources for spelling in spellings(source)}
        with self._writing():
            state = self._state()
            gone = [place for place, _ in self._held(state, wanted).values()]
            if gone:
                self._commit(state, state.runs, gone)
            return len(gone)

    def ask(self, documents: Sequence[Document], most: int | None = None) -> list[list[Match]]:
        """For each document, the near ones of the index, the most similar first, without the one of its own source; at
        most `most` of them."""
        keys_NB = self.near.sketch(documents)
        sets = [self.near.shingle_set(document.text) for document in documents]
        return self._reading(lambda state: [*self._ask(state, documents, keys_NB, sets, most)])

    def ask_all(
        self, documents: Iterable[Document], most: int | None = None, progress: Progress = lambda *_: None
    ) -> Iterator[tuple[Document, list[Match]]]:
        """`ask`, for any number of documents."""
        for batch in self._batches(documents, progress):
            yield from zip(batch, self.ask(batch, most), strict=True)

    def compact(self) -> None:
        """Merges all runs into one and frees what was removed. Meanwhile the index takes twice its size on disk."""
        with self._writing():
            state = self._state()
            if len(state.runs) > 1 or len(state.removed):
                self._merge_from(0)

    def _ask(
        self,
        state: IndexState,
        documents: Sequence[Document],
        keys_NB: NDArray[np.uint64],
        sets: Sequence[ShingleSet],
        most: int | None,
    ) -> Iterator[list[Match]]:
        found: list[list[Match]] = [[] for _ in documents]
        sources = Sources()
        own = [sources.spellings(document.source) for document in documents]
        for run in self._runs(state):
            for asker, place in run.candidates(keys_NB):
                similarity = jaccard_similarity(sets[asker], run.sets.row(place))
                if similarity >= self.near.threshold and (source := run.source(place)) not in own[asker]:
                    found[asker].append(Match(sources.shown(source), similarity))
                    if most is not None and len(found[asker]) >= 2 * most + REPORT:
                        found[asker] = heapq.nsmallest(most, found[asker], key=_order)
        return (sorted(matches, key=_order)[:most] for matches in found)

    def _add(self, batch: dict[str, Document], sources: Sources, added: Added) -> None:
        """Adds documents by source, all or none."""
        state = self._state()
        spellings = {source: sources.spellings(document.source) for source, document in batch.items()}
        held, runs = self._held(state, set().union(*spellings.values())), self._runs(state)
        new: dict[str, ShingleSet] = {}
        replaced: list[tuple[int, int]] = []
        for source, document in batch.items():
            made = self.near.shingle_set(document.text)
            before = [held[spelling] for spelling in spellings[source] if spelling in held]
            if any(np.array_equal(runs[run].sets.row(place), made) for (_, place), run in before):
                added.known += 1
                continue
            new[source] = made
            replaced += [place for place, _ in before]
            added.replaced += bool(before)
            added.new += not before
        if new:
            keys = self.near.sketch([batch[source] for source in new])
            run = self._new_run(state, lambda folder: write_index_run(folder, keys, list(new), list(new.values())))
            self._commit(state, (*state.runs, run), replaced)

    def _batches(self, documents: Iterable[Document], progress: Progress) -> Iterator[list[Document]]:
        """As many documents at a time as fit into a third of the room with their sets and keys. Making the shingles of
        one takes another third at most."""
        third, of_document = self.near.room // 3, DOCUMENT + KEY * self.near.banding.bands
        work = WORK[self.near.signer.shingle.unit]
        batch, taken = list[Document](), 0
        for count, document in enumerate(documents, 1):
            if len(document.text) * work > third:
                what = f"{document.source} of {len(document.text):,} characters"
                raise too_small(what, 3 * len(document.text) * work)
            size = TEXT * len(document.text) + of_document
            if batch and taken + size > third:
                yield batch
                batch, taken = [], 0
            batch.append(document)
            taken += size
            if count % REPORT == 0:
                progress("documents", count, None)
        if batch:
            yield batch

    def _merge_recent(self) -> None:
        """Keeps every run larger than all later ones together, so that there are few (the logarithm of their sum) and
        each document is rewritten as seldom."""
        sizes = [run.documents for run in self._state().runs]
        start = len(sizes) - 1
        while start > 0 and sizes[start - 1] <= sum(sizes[start:]):
            start -= 1
        if start < len(sizes) - 1:
            self._merge_from(start)

    def _merge_from(self, start: int) -> None:
        """Makes one run of those from `start`, once every byte of them was found as it was written."""
        state = self._state()
        before, lines, merged = state.runs[:start], state.runs[start:], self._runs(state)[start:]
        if (room := MERGE * sum(line.documents for line in lines)) > self.near.room // 3:
            raise too_small("merging the index", 3 * room)
        self._verify(replace(state, runs=lines))
        run = self._new_run(state, lambda folder: merge_index_runs(folder, merged, self.near.room // 8))
        self._commit(state, (*before, run), [])

    def _new_run(self, state: IndexState, write: Callable[[Path], tuple[int, int]]) -> RunLine:
        """Writes a run, of which `write` returns the counts, and gives its line of the manifest."""
        path = state.folder_of(state.next)
        with _failures(self.folder), building(path) as folder:
            documents, entries = write(folder)
            return RunLine(state.next, documents, entries, hashes_of(folder))

    def _commit(self, state: IndexState, runs: Sequence[RunLine], gone: Sequence[tuple[int, int]]) -> None:
        """Makes these the runs that count, without what is gone; what no longer counts is deleted."""
        with _failures(self.folder):
            state.after(runs, gone).write()

    def _verify(self, state: IndexState) -> None:
        for run, line in zip(self._runs(state), state.runs, strict=True):
            run.verify(line.sha256)

    def _state(self) -> IndexState:
        return IndexState.read(self.folder)

    def _reading(self, read: Callable[[IndexState], Result]) -> Result:
        """What `read` makes of the state, or of the next one if a writer has deleted files of this one meanwhile."""
        while True:
            state = self._state()
            try:
                return read(state)
            except (FileNotFoundError, ProblemError) as error:
                if self._state() != state:
                    continue
                if isinstance(error, FileNotFoundError):
                    raise failed("damaged-file", "missing", str(error.filename), AGAIN) from error
                raise

    def _begin(self) -> None:
        """Makes an index of no documents. Raises `ProblemError` in a folder of other files, or of an index without its
        manifest."""
        with _failures(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            strange = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        if MANIFEST in strange:  # another process was faster
            return
        if strange:
            what = f"holds no index but other files, such as {strange[0]}; it was left unchanged"
            raise ProblemError(Problem("no-index", what, str(self.folder), "choose an empty folder"))
        with self._writing():
            if not (self.folder / MANIFEST).exists():
                self._commit(IndexState(self.folder, self.near.describe()), (), [])

    def _is_other_and_empty(self) -> bool:
        """Whether the index has other settings but no document, as after a first addition that failed."""
        state = self._state()
        written = sum(run.documents for run in state.runs)
        return written == len(state.removed) and bool(state.other_settings(self.near.describe()))

    def _begin_anew(self) -> None:
        """Gives the index these settings, if it is still empty."""
        with self._writing():
            if self._is_other_and_empty():
                self._commit(replace(self._state(), settings=self.near.describe()), (), [])

    def _runs(self, state: IndexState) -> list[IndexRun]:
        removed = state.removed
        return [
            IndexRun(
                state.folder_of(line.number),
                line.documents,
                line.entries,
                np.sort(removed[removed[:, 0] == line.number, 1]),
            )
            for line in state.runs
        ]

    def _held(self, state: IndexState, sources: Iterable[str]) -> dict[str, tuple[tuple[int, int], int]]:
        """Of each source that the index has: the number of its run, its place in there, and which run that is."""
        found: dict[str, tuple[tuple[int, int], int]] = {}
        for at, (line, run) in enumerate(zip(state.runs, self._runs(state), strict=True)):
            found |= {source: ((line.number, place), at) for source, place in run.places_of(sources).items()}
        return found

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The index, by this process alone, without what a killed one left."""
        with ExitStack() as stack:
            with _failures(self.folder):
                stack.enter_context(locked(self.folder / ".lock"))
                if (self.folder / MANIFEST).exists():
                    self._state().delete_leftovers()
            yield


def _order(match: Match) -> tuple[float, str]:
    return -match.jaccard, match.source


@contextmanager
def _failures(folder: Path) -> Iterator[None]:
    """Makes a failure of the disk a problem that names the folder."""
    try:
        yield
    except OSError as error:
        fix = "free space or choose another folder, and do it again: what was finished is kept"
        raise failed("cannot-write", f"writing failed ({error})", str(folder), fix) from error
