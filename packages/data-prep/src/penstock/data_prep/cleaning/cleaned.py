"""The corpus `cleaned`: the documents that the stages of a cleaned folder left, and those that somebody took back.

`undone.json` names, for each document that was taken back, the last stage that had decided about it. What that stage
and those before it decided is lifted; what later ones decide holds. A stage of another name follows from other settings
or another corpus, so what was undone of a stage that is gone lifts nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.data_prep.cleaning.clean import read_cleaned
from penstock.data_prep.cleaning.decisions import StageCounts, counted
from penstock.data_prep.cleaning.stages import Seen, Stage, decided_of
from penstock.data_prep.files import fingerprint
from penstock.hooks.atomic import read_json, write_json
from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import Problem, ProblemError

UNDONE, FORMAT = "undone.json", 2
Counts = Sequence[tuple[Stage, StageCounts]]


class CleanedCorpus:
    """Documents in the order of the corpus that was cleaned. One that was taken back has its first text,
    unless a later stage decided about it."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def documents(self) -> Iterator[Document]:
        cleaned = read_cleaned(self._folder)
        names = [stage.name for stage, _ in cleaned.stages]
        lifted = read_lifted(self._folder, names)
        seen = Seen(cleaned.folder, tuple(names))
        decided = _later(seen, names, lifted)
        if problems := seen.documents.damage():
            raise ProblemError(problems)
        for number in range(len(seen.documents.shards)):
            left = dict(seen.of_shard(number))
            for place, document in enumerate(seen.documents.of_shard(number), seen.documents.firsts[number]):
                if place in decided:
                    text = decided[place].text
                    if text is not None:
                        yield replace(document, text=text)
                elif place in lifted:
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
    names = [stage.name for stage, _ in read_cleaned(folder).stages]
    seen = Seen(folder, ())
    wanted = set(places)
    last = {place: name for name in names for place, _ in decided_of(seen, name) if place in wanted}
    if unknown := sorted(wanted - last.keys()):
        what = f"no stage has removed or changed document {unknown[0]}"
        fix = "the lines of `decisions` have the number of each document"
        raise ProblemError(Problem("not-decided", what, str(folder), fix))
    undone = {**_read_undone(folder), **last}
    documents = {str(place): undone[place] for place in sorted(undone)}
    write_json(folder / UNDONE, {"format": FORMAT, "documents": documents})
    return sorted(read_lifted(folder, names))


def read_lifted(folder: Path, names: Sequence[str]) -> dict[int, int]:
    """Of each document that was taken back, how many of these stages have no say about it: those up to the one whose
    decision was undone."""
    ends = {name: number for number, name in enumerate(names, 1)}
    return {place: ends[name] for place, name in _read_undone(folder).items() if name in ends}


@dataclass(frozen=True, slots=True)
class Kept:
    """What stages did, without what was undone.

    `back` counts the documents that were taken back, `unjudged` those among them that a stage had removed before later
    stages saw them: these never judged them.
    """

    stages: tuple[tuple[Stage, StageCounts], ...]
    back: int = 0
    unjudged: int = 0


def without_undone(folder: Path, stages: Counts) -> Kept:
    """The counts of stages that are done, the first of a cleaning, without what was undone. A document that was taken
    back counts as one that came to every later stage."""
    names = [stage.name for stage, _ in stages]
    lifted = read_lifted(folder, names)
    if not lifted:
        return Kept(tuple(stages))
    seen = Seen(folder, ())
    came = {place: seen.documents.at(place) for place in lifted}
    kept: list[tuple[Stage, StageCounts]] = []
    unjudged, documents = 0, len(seen.documents)
    for number, (stage, counts) in enumerate(stages):
        undone = {place: each for place, each in decided_of(seen, stage.name) if lifted.get(place, 0) > number}
        back = counted((came[place], decision) for place, decision in undone.items())
        rules = Counter(counts.rules) - Counter(back.rules)
        found = replace(
            counts,
            documents=documents,
            removed=counts.removed - back.removed,
            changed=counts.changed - back.changed,
            removed_bytes=counts.removed_bytes - back.removed_bytes,
            rules=dict(sorted(rules.items())),
        )
        kept.append((stage, found))
        documents -= found.removed
        unjudged += back.removed if number + 1 < len(stages) else 0
        for place, decision in undone.items():
            if decision.text is not None:
                came[place] = replace(came[place], text=decision.text)
    return Kept(tuple(kept), len(lifted), unjudged)


def _read_undone(folder: Path) -> dict[int, str]:
    """Places of the documents that were taken back, and the last stage that had decided about each."""
    path = folder / UNDONE
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        places = f": {' '.join(map(str, found[:20]))}" if isinstance(found, list) else ""
        what = "was written by another release, which did not name the stage of each document"
        fix = f"delete it, and take the documents back again with `penstock data undo`{places}"
        raise ProblemError(Problem("other-format", what, str(path), fix))
    return {int(place): name for place, name in found["documents"].items()}


def _later(seen: Seen, names: Sequence[str], lifted: Mapping[int, int]) -> dict[int, Decision]:
    """The last decision about each document that was taken back, of those that hold."""
    return {
        place: decision
        for number, name in enumerate(names if lifted else ())
        for place, decision in decided_of(seen, name)
        if lifted.get(place, len(names)) <= number
    }
