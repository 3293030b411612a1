"""The corpus `cleaned`: the documents that the stages of a cleaned folder left, and those that somebody took back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock.data_prep.cleaning.clean import Cleaned, read_cleaned
from penstock.data_prep.cleaning.stages import Seen, decided_of
from penstock.data_prep.files import fingerprint
from penstock.hooks.atomic import read_json, write_json
from penstock.hooks.contracts import Document
from penstock.hooks.problems import Problem, ProblemError

UNDONE = "undone.json"


class CleanedCorpus:
    """Documents in the order of the corpus that was cleaned. One that was taken back has its first text."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def documents(self) -> Iterator[Document]:
        cleaned, back = read_cleaned(self._folder), read_undone(self._folder)
        seen = _all_seen(cleaned)
        if problems := seen.documents.damage():
            raise ProblemError(problems)
        for number in range(len(seen.documents.shards)):
            left = dict(seen.of_shard(number))
            for place, document in enumerate(seen.documents.of_shard(number), seen.documents.firsts[number]):
                if place in back:
                    yield document
                elif place in left:
                    yield left[place]

    def fingerprint(self) -> Mapping[str, Any]:
        """Changes when the folder is cleaned otherwise, or a document is taken back."""
        read_cleaned(self._folder)
        return fingerprint(sorted(path for path in self._folder.rglob("*") if path.is_file() and path.name[0] != "."))


def undo(folder: Path, places: Iterable[int]) -> list[int]:
    """Takes documents back that a stage removed or changed; returns all that are back. Raises `ProblemError` for a
    place without a decision."""
    cleaned = read_cleaned(folder)
    decided = decided_places(cleaned)
    wanted = set(places)
    if unknown := sorted(wanted - decided):
        what = f"no stage has removed or changed document {unknown[0]}"
        fix = "the lines of `decisions` have the number of each document"
        raise ProblemError(Problem("not-decided", what, str(folder), fix))
    back = sorted(read_undone(folder) | wanted)
    write_json(folder / UNDONE, back)
    return back


def read_undone(folder: Path) -> set[int]:
    """Places of the documents that were taken back."""
    path = folder / UNDONE
    return set(read_json(path)) if path.exists() else set()


def decided_places(cleaned: Cleaned) -> set[int]:
    seen = _all_seen(cleaned)
    return {place for stage, _ in cleaned.stages for place, _ in decided_of(seen, stage.name)}


def _all_seen(cleaned: Cleaned) -> Seen:
    return Seen(cleaned.folder, tuple(stage.name for stage, _ in cleaned.stages))
