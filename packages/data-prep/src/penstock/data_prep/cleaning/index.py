"""An index of documents on disk that finds near duplicates of new ones: add, remove, ask.

Documents are stored in runs (`index_run.py`): band keys, sources, and sets of shingles, with which candidates are
verified without their texts. Sets take 8 bytes a shingle, a little more than the text does. `index.json` names the runs
that count. It is replaced in one step, after the files that it names are on disk: a process that is killed leaves the
index as it was before or after the step, and the next writer removes leftovers.

One process writes at a time. Others may ask meanwhile, and ask again if a merge has removed the files that they read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.data_prep.atomic import building, locked
from penstock.data_prep.cleaning.index_run import IndexRun, merge_index_runs, write_index_run
from penstock.data_prep.cleaning.near import NearDuplicates, jaccard_similarity
from penstock.data_prep.cleaning.runs import PLACE, entries_of
from penstock.hooks.atomic import read_json, replacing, write_json
from penstock.hooks.contracts import Document
from penstock.hooks.problems import Problem, ProblemError, failed

FORMAT = 1
_OURS = re.compile(r"run-\d+|removed-\d+\.npy|\.(run-\d+|removed-\d+\.npy|index\.json)\.partial")


@dataclass(frozen=True, slots=True)
class Match:
    """A document of the index, and its Jaccard similarity to the one that was asked about."""

    source: str
    jaccard: float


class NearIndex:
    """The index in `folder`, which is begun if the folder has none. A document is known by its source.

    `near` makes keys and sets. Its description is stored, and an index of another description is refused. Adding and
    merging take about half of its `max_ram`, and merging another 8 bytes a document.

    Raises `ProblemError` for an index of other settings, for damaged files and where writing fails.
    """

    def __init__(self, folder: str | Path, near: NearDuplicates) -> None:
        self.folder, self.near = Path(folder), near
        with _failures(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._manifest = self.folder / "index.json"
        if not self._manifest.exists():
            with self._writing():
                if not self._manifest.exists():
                    self._commit({"next": 0}, [], np.empty((0, 2), PLACE))
        self._require_same_settings()
        for run in self._runs(self._state()):
            run.check()

    def __len__(self) -> int:
        return sum(run.documents - len(run.removed) for run in self._runs(self._state()))

    def add(self, documents: Iterable[Document]) -> None:
        """Adds documents; one whose source the index has is replaced. An addition that was interrupted can therefore
        be repeated."""
        with self._writing():
            for batch in self._batches(documents):
                self._add(batch)
                self._merge_recent()

    def remove(self, sources: Iterable[str]) -> int:
        """Removes documents by source, and returns how many of them the index had."""
        with self._writing():
            state = self._state()
            gone = self._rows_of(state, list(sources))
            if len(gone):
                self._commit(state, state["runs"], np.concatenate((self._removed(state), gone)))
            return len(gone)

    def ask(self, documents: Sequence[Document]) -> list[list[Match]]:
        """For each document, the near ones of the index, the most similar first, without the one of its own source."""
        keys, askers = entries_of(self.near.sketch(documents), 0)
        sets = [self.near.shingle_set(document.text) for document in documents]
        matches: list[list[Match]] = [[] for _ in documents]
        for run in self._runs(self._state()):
            for asker, place in run.candidates(keys, askers):
                similarity = jaccard_similarity(sets[asker], run.sets.row(place))
                if similarity >= self.near.threshold and (source := run.source(place)) != documents[asker].source:
                    matches[asker].append(Match(source, similarity))
        return [sorted(found, key=lambda match: (-match.jaccard, match.source)) for found in matches]

    def compact(self) -> None:
        """Merges all runs into one and frees what was removed. Meanwhile the index takes twice its size on disk."""
        with self._writing():
            self._merge_from(0)

    def _add(self, batch: dict[str, Document]) -> None:
        """Adds documents by source, all or none."""
        state = self._state()
        keys = self.near.sketch(list(batch.values()))
        sets = [self.near.shingle_set(document.text) for document in batch.values()]
        replaced = self._rows_of(state, list(batch))
        run = self._new_run(state, lambda folder: write_index_run(folder, keys, list(batch), sets))
        self._commit(state, [*state["runs"], run], np.concatenate((self._removed(state), replaced)))

    def _batches(self, documents: Iterable[Document]) -> Iterator[dict[str, Document]]:
        """Documents by source, as many as fit into memory with their sets and the copies that writing makes."""
        batch, room = dict[str, Document](), self.near.max_ram // 4
        for document in documents:
            batch[document.source] = document
            room -= 16 * len(document.text) + 1000
            if room < 0:
                yield batch
                batch, room = {}, self.near.max_ram // 4
        if batch:
            yield batch

    def _merge_recent(self) -> None:
        """Keeps every run larger than all later ones together, so that there are few (the logarithm of their sum) and
        each document is rewritten as seldom."""
        sizes = [run["documents"] for run in self._state()["runs"]]
        start = len(sizes) - 1
        while start > 0 and sizes[start - 1] <= sum(sizes[start:]):
            start -= 1
        if start < len(sizes) - 1:
            self._merge_from(start)

    def _merge_from(self, start: int) -> None:
        """Makes one run of those from `start`."""
        state = self._state()
        before, merged = state["runs"][:start], self._runs(state)[start:]
        if not merged:
            return
        run = self._new_run(state, lambda folder: merge_index_runs(folder, merged, self.near.max_ram // 4))
        removed = self._removed(state)
        still = np.isin(removed[:, 0], [each["number"] for each in before])
        self._commit(state, [*before, run], removed[still])

    def _new_run(self, state: dict[str, Any], write: Callable[[Path], tuple[int, int]]) -> dict[str, int]:
        """Writes a run, of which `write` returns the counts, and gives its line of the manifest."""
        with _failures(self.folder), building(self._folder_of(state["next"])) as folder:
            documents, entries = write(folder)
        return {"number": state["next"], "documents": documents, "entries": entries}

    def _commit(self, state: dict[str, Any], runs: list[dict[str, int]], removed: NDArray[np.uint32]) -> None:
        """Makes these the runs that count; what no longer counts is deleted."""
        name = f"removed-{state['next']}.npy" if len(removed) else None
        with _failures(self.folder):
            if name:
                with replacing(self.folder / name) as file:
                    np.save(file, removed)
            write_json(self._manifest, {**self._settings(), "next": state["next"] + 1, "runs": runs, "removed": name})
            self._delete_leftovers()

    def _settings(self) -> dict[str, Any]:
        return {"format": FORMAT, "settings": self.near.describe()}

    def _state(self) -> dict[str, Any]:
        try:
            return read_json(self._manifest)
        except (OSError, ValueError) as error:
            raise failed("damaged-file", str(error), str(self._manifest), "build the index again") from error

    def _require_same_settings(self) -> None:
        state = self._state()
        stored = {"format": state["format"], **state["settings"]}
        ours = {"format": FORMAT, **self.near.describe()}
        names = [name for name in {**stored, **ours} if stored.get(name) != ours.get(name)]
        if names:
            differ = ", ".join(f"{name} {stored.get(name)} instead of {ours.get(name)}" for name in names)
            fix = "take the index's settings, or build another index"
            raise ProblemError(Problem("other-index", f"the index was made with {differ}", str(self.folder), fix))

    def _runs(self, state: dict[str, Any]) -> list[IndexRun]:
        removed = self._removed(state)
        return [
            IndexRun(
                self._folder_of(run["number"]),
                run["documents"],
                run["entries"],
                removed[removed[:, 0] == run["number"], 1],
            )
            for run in state["runs"]
        ]

    def _rows_of(self, state: dict[str, Any], sources: Sequence[str]) -> NDArray[np.uint32]:
        """(number of the run, place) of the documents with one of these sources."""
        numbers = [run["number"] for run in state["runs"]]
        found = [
            (number, place)
            for number, run in zip(numbers, self._runs(state), strict=True)
            for place in run.places_of(sources)
        ]
        return np.array(found, PLACE).reshape(-1, 2)

    def _removed(self, state: dict[str, Any]) -> NDArray[np.uint32]:
        """(number of the run, place) of all documents that were removed."""
        if state["removed"] is None:
            return np.empty((0, 2), PLACE)
        try:
            return np.load(self.folder / state["removed"])
        except (OSError, ValueError) as error:
            where = str(self.folder / state["removed"])
            raise failed("damaged-file", str(error), where, "build the index again") from error

    def _folder_of(self, number: int) -> Path:
        return self.folder / f"run-{number}"

    def _delete_leftovers(self) -> None:
        """Deletes files of the index that the manifest does not name; others are not touched."""
        state = self._state()
        named = {state["removed"], *(f"run-{run['number']}" for run in state["runs"])}
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in named:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The index, by this process alone, without what a killed one left."""
        with ExitStack() as stack:
            with _failures(self.folder):
                stack.enter_context(locked(self.folder / ".lock"))
                if self._manifest.exists():
                    self._delete_leftovers()
            yield


@contextmanager
def _failures(folder: Path) -> Iterator[None]:
    """Makes a failure of the disk a problem that names the folder."""
    try:
        yield
    except OSError as error:
        fix = "free space or choose another folder, and do it again: what was finished is kept"
        raise failed("cannot-write", f"writing failed ({error})", str(folder), fix) from error
