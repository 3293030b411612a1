"""Stages over the folder of a cleaning: what each sees, and the jobs that work on one shard of it.

A job is a function of the folder, the stage and the shard. It writes its file whole or not at all. A job whose file
exists does nothing, so a killed cleaning goes on with the other shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np

from penstock.data_prep.cleaning.decisions import (
    StageCounts,
    counted,
    languages_file,
    read_decisions,
    starts_of_texts,
    text_at,
    write_decisions,
    write_languages,
)
from penstock.data_prep.cleaning.documents import Documents
from penstock.hooks.atomic import replacing
from penstock.hooks.contracts import Decision, Document
from penstock.hooks.discovery import Selection
from penstock.hooks.registry import Registry

DOCUMENTS, DECISIONS, SKETCHES = "documents", "decisions", "sketches"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a cleaning. `cleaner` is what its config says, `code` the hash of the component's code; `name` is the
    folder of its files, which says what it follows from: the corpus, and every stage before it."""

    name: str
    cleaner: Mapping[str, Any]
    code: str = ""


def stages_of(corpus: Mapping[str, Any], cleaners: Sequence[tuple[Mapping[str, Any], str]]) -> list[Stage]:
    """Names the stages of a cleaning: each by its number, its component, and a hash of all that decides its result."""
    stages: list[Stage] = []
    known = json.dumps(corpus, sort_keys=True)
    for number, (cleaner, code) in enumerate(cleaners, 1):
        known += json.dumps([cleaner, code], sort_keys=True)
        key = hashlib.sha256(known.encode()).hexdigest()[:10]
        stages.append(Stage(f"{number:02d}-{cleaner['use'].rpartition(':')[2]}-{key}", cleaner, code))
    return stages


@dataclass(frozen=True)
class Seen:
    """The documents that come to a stage, in their shards: those that `before` left, with the texts that it made."""

    folder: Path
    before: tuple[str, ...]

    @cached_property
    def documents(self) -> Documents:
        return Documents.open(self.folder / DOCUMENTS)

    def of_shard(self, number: int) -> Iterator[tuple[int, Document]]:
        """Places and documents."""
        name = self.documents.shards[number].name
        waiting = [_Cursor(read_decisions(self.folder / DECISIONS / stage / name)) for stage in self.before]
        for place, document in enumerate(self.documents.of_shard(number), self.documents.firsts[number]):
            text: str | None = document.text
            for decisions in waiting:
                decided = decisions.at(place)
                if decided is not None and text is not None:
                    text = decided.text
            if text is not None:
                yield place, document if text is document.text else replace(document, text=text)


class _Cursor:
    """Decisions of ascending places, asked for in that order."""

    def __init__(self, decided: Iterator[tuple[int, Decision]]) -> None:
        self._decided = decided
        self._next = next(decided, None)

    def at(self, place: int) -> Decision | None:
        if self._next is None or self._next[0] != place:
            return None
        found, self._next = self._next[1], next(self._decided, None)
        return found


# ------------------------------------------------------------------------------------------------ jobs


def judge_shard(argument: dict[str, Any]) -> dict[str, Any]:
    """A job: writes the decisions of a judge about one shard. Returns their counts."""
    cleaner, seen, number = _of(argument)
    path = decisions_file(seen, argument["stage"], number)
    if not path.exists():
        write_decisions(path, _judged(cleaner, seen.of_shard(number), languages_file(path)))
    return asdict(counts_of_shard(seen, argument["stage"], number))


def _judged(cleaner: Any, documents: Iterator[tuple[int, Document]], languages: Path) -> Iterator[tuple[int, Decision]]:
    """The decisions of a judge. The languages that it finds out are written with the last, so that a shard which has
    decisions has languages too."""
    if not hasattr(cleaner, "judge_language"):
        decided = ((place, cleaner.judge(document)) for place, document in documents)
        yield from ((place, decision) for place, decision in decided if decision is not None)
        return
    told: list[tuple[int, str]] = []
    for place, document in documents:
        language, decision = cleaner.judge_language(document)
        told.append((place, language))
        if decision is not None:
            yield place, decision
    if told:
        write_languages(languages, told)


def sketch_shard(argument: dict[str, Any]) -> dict[str, Any]:
    """A job: writes the rows of a comparer for one shard, and the places of their documents."""
    cleaner, seen, number = _of(argument)
    path = sketch_file(seen, argument["stage"], number)
    if not path.exists():
        shard = list(seen.of_shard(number))
        rows = np.asarray(cleaner.sketch([document for _, document in shard]))
        place_N = np.array([place for place, _ in shard], dtype=np.int64)
        for target, array in ((places_file(path), place_N), (path, rows)):  # the second says that both are there
            with replacing(target) as file:
                np.save(file, array)
    return {}


def _of(argument: Mapping[str, Any]) -> tuple[Any, Seen, int]:
    registry = Registry.discover(Selection.from_json(argument["selection"]))
    choice = registry.choose("cleaner", argument["cleaner"])
    return choice.build(), Seen(Path(argument["folder"]), tuple(argument["before"])), argument["shard"]


def counts_of_shard(seen: Seen, stage: str, number: int) -> StageCounts:
    decided = _Cursor(read_decisions(decisions_file(seen, stage, number)))
    return counted((document, decided.at(place)) for place, document in seen.of_shard(number))


def decisions_file(seen: Seen, stage: str, number: int) -> Path:
    return seen.folder / DECISIONS / stage / seen.documents.shards[number].name


def sketch_file(seen: Seen, stage: str, number: int) -> Path:
    return seen.folder / SKETCHES / stage / f"{number:05d}.npy"


def places_file(sketch: Path) -> Path:
    return sketch.with_suffix(".places.npy")


# ------------------------------------------------------------------------------------------- comparing


def compare_all(cleaner: Any, seen: Seen, stage: str) -> None:
    """Writes the decisions of a comparer about all shards, from the rows of each."""
    files = [sketch_file(seen, stage, number) for number in range(len(seen.documents.shards))]
    places = [np.load(places_file(file)) for file in files]
    place_N = np.concatenate(places)
    read = _Reader(seen, place_N)
    decided = ((int(place_N[number]), decision) for number, decision in cleaner.compare(_Arrays(files), read))
    following = next(decided, None)
    for number, end in enumerate(accumulate(shard.documents for shard in seen.documents.shards)):

        def of_shard(end: int = end) -> Iterator[tuple[int, Decision]]:
            nonlocal following
            while following is not None and following[0] < end:
                yield following
                following = next(decided, None)

        write_decisions(decisions_file(seen, stage, number), of_shard())


class _Arrays(Sequence[Any]):
    """The rows of each shard, read when they are asked for: what is mapped would count as memory once it is read."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: Any) -> Any:
        return _Arrays(self._files[number]) if isinstance(number, slice) else np.load(self._files[number])


class _Reader:
    """The document at a place among those that came to a stage. Of texts that earlier stages made it keeps where they
    are."""

    def __init__(self, seen: Seen, place_N: np.ndarray) -> None:
        self._seen, self._place_N = seen, place_N
        self._made: dict[int, tuple[Path, int]] = {}
        for stage in seen.before:
            for number in range(len(seen.documents.shards)):
                path = decisions_file(seen, stage, number)
                self._made |= {place: (path, start) for place, start in starts_of_texts(path)}

    def __call__(self, number: int) -> Document:
        place = int(self._place_N[number])
        document = self._seen.documents.at(place)
        if place not in self._made:
            return document
        path, start = self._made[place]
        return replace(document, text=text_at(path, start))


def decided_of(seen: Seen, stage: str) -> Iterator[tuple[int, Decision]]:
    """All decisions of a stage."""
    return chain.from_iterable(
        read_decisions(decisions_file(seen, stage, number)) for number in range(len(seen.documents.shards))
    )
