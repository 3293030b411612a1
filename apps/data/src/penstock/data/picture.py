"""What the page of a cleaned corpus shows, counted in one pass over its documents and the decisions about them."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from penstock.data_prep.cleaning.clean import Cleaned
from penstock.data_prep.cleaning.cleaned import read_lifted
from penstock.data_prep.cleaning.decisions import languages_file, read_decisions, read_languages
from penstock.data_prep.cleaning.documents import Documents
from penstock.data_prep.cleaning.stages import DOCUMENTS, Seen, decisions_file
from penstock.hooks.contracts import Decision, Document

PAIRS = 8
"""Removed documents of each stage that are shown beside what they repeat."""
SHOWN = 600
"""Characters of a text that are shown."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A removed document, and the one that it repeats, if that is why."""

    place: int
    stage: str
    rule: str
    detail: str
    source: str
    text: str
    repeats: str
    kept: str


@dataclass(slots=True)
class SourceCounts:
    """Documents of one file or dataset: how many there are, are left, and were removed by each stage."""

    documents: int = 0
    left: int = 0
    removed: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class LanguageCounts:
    """Documents that came to a stage by the language that it found, and those of them that are left in the end."""

    came: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Picture:
    """`before` and `after` count documents by the power of two that their number of characters reaches; `languages` by
    the language that a stage found, for each stage that does; `clusters` counts documents that stay by how many repeat
    them."""

    sources: dict[str, SourceCounts]
    languages: dict[str, LanguageCounts]
    before: Counter[int]
    after: Counter[int]
    clusters: Counter[int]
    pairs: list[Pair]

    @property
    def removed(self) -> Counter[str]:
        """Documents that each stage removed, without those that were taken back."""
        return sum((counts.removed for counts in self.sources.values()), Counter[str]())


def picture_of(cleaned: Cleaned) -> Picture:
    seen = Seen(cleaned.folder, ())
    stages = [stage.name for stage, _ in cleaned.stages]
    lifted = read_lifted(cleaned.folder, stages)
    numbers = {stage: number for number, stage in enumerate(stages)}
    sources: defaultdict[str, SourceCounts] = defaultdict(SourceCounts)
    languages: defaultdict[str, LanguageCounts] = defaultdict(LanguageCounts)
    before, after, repeated = Counter[int](), Counter[int](), Counter[str]()
    samples: dict[str, list[tuple[int, int, Decision]]] = {stage: [] for stage in stages}
    for place, document, decided, told in _decided(seen, stages):
        counts = sources[source_of(document)]
        counts.documents += 1
        before[length_of(document.text)] += 1
        text: str | None = document.text
        for stage, decision in decided:
            if numbers[stage] < lifted.get(place, 0):
                continue
            text = decision.text
            if text is None:
                counts.removed[stage] += 1
                if decision.repeats is not None:
                    repeated[decision.repeats] += 1
                _keep(samples[stage], place, decision)
        if text is not None:
            counts.left += 1
            after[length_of(text)] += 1
        for stage, language in told:
            languages[stage].came[language] += 1
            languages[stage].left[language] += text is not None
    found = [(place, stage, decision) for stage in stages for _, place, decision in sorted(samples[stage], key=_order)]
    pairs = list(_pairs(Documents.open(cleaned.folder / DOCUMENTS), found))
    return Picture(dict(sources), dict(languages), before, after, Counter(repeated.values()), pairs)


def source_of(document: Document) -> str:
    """The file or dataset of a document, without its place in there.

    >>> source_of(Document("", "a/b.jsonl:17")), source_of(Document("", "notes.txt"))
    ('a/b.jsonl', 'notes.txt')
    """
    head, colon, tail = document.source.rpartition(":")
    return head if colon and tail.isdecimal() else document.source


def length_of(text: str) -> int:
    """The power of two that a number of characters reaches: 2 for 4 to 7; -1 for an empty text.

    >>> [length_of("x" * length) for length in (0, 1, 4, 7, 8)]
    [-1, 0, 2, 2, 3]
    """
    return len(text).bit_length() - 1


def _decided(
    seen: Seen, stages: list[str]
) -> Iterator[tuple[int, Document, list[tuple[str, Decision]], list[tuple[str, str]]]]:
    """Each document with what the stages decided of it, and the languages that they found."""
    for number in range(len(seen.documents.shards)):
        of_place: defaultdict[int, list[tuple[str, Decision]]] = defaultdict(list)
        told: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
        for stage in stages:
            path = decisions_file(seen, stage, number)
            for place, decision in read_decisions(path):
                of_place[place].append((stage, decision))
            for place, language in read_languages(languages_file(path)):
                told[place].append((stage, language))
        for place, document in seen.of_shard(number):
            yield place, document, of_place.get(place, []), told.get(place, [])


def _keep(kept: list[tuple[int, int, Decision]], place: int, decision: Decision) -> None:
    """Keeps the places whose hashes are smallest: a sample that does not depend on the order."""
    rank = int.from_bytes(hashlib.sha256(str(place).encode()).digest()[:8], "little")
    entry = (-rank, place, decision)
    if len(kept) < PAIRS:
        heapq.heappush(kept, entry)
    elif entry > kept[0]:
        heapq.heapreplace(kept, entry)


def _order(entry: tuple[int, int, Decision]) -> int:
    return entry[1]


def _pairs(documents: Documents, found: list[tuple[int, str, Decision]]) -> Iterator[Pair]:
    wanted = {decision.repeats for _, _, decision in found} - {None}
    texts = {
        document.source: document.text
        for number in range(len(documents.shards))
        for document in (documents.of_shard(number) if wanted else ())
        if document.source in wanted
    }
    for place, stage, decision in found:
        document = documents.at(place)
        repeats = decision.repeats or ""
        yield Pair(
            place,
            stage,
            decision.rule,
            decision.detail,
            document.source,
            _shown(document.text),
            repeats,
            _shown(texts.get(repeats, "")),
        )


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text):,} characters)"
