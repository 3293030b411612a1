"""Cleaners that break one law each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from broken.described import described
from penstock.hooks.contracts import Decision, Document


class Good:
    """Keeps the first document of each text."""

    def sketch(self, documents: Sequence[Document]) -> Any:
        return np.array([self.number(document) for document in documents], dtype=np.int64)

    def number(self, document: Document) -> int:
        return int.from_bytes(document.text.encode("utf-8", "surrogatepass"), "little") % (2**61 - 1)

    def compare(self, sketches: Sequence[Any], read: Callable[[int], Document]) -> Iterator[tuple[int, Any]]:
        first: dict[int, int] = {}
        for place, number in enumerate(np.concatenate(sketches).tolist()):
            if first.setdefault(number, place) != place:
                yield place, self.decision(read(first[number]))

    def decision(self, kept: Document) -> Any:
        return Decision("again", "the text stood before", kept.source)


class Both(Good):
    def judge(self, document: Document) -> Decision | None:
        return None


class Nameless(Good):
    def decision(self, kept: Document) -> Any:
        return Decision("", "the text stood before", kept.source)


class Neighbour(Good):
    """Names the last document of the text before this one, which may be removed too."""

    def compare(self, sketches: Sequence[Any], read: Callable[[int], Document]) -> Iterator[tuple[int, Any]]:
        last: dict[int, int] = {}
        for place, number in enumerate(np.concatenate(sketches).tolist()):
            if number in last:
                yield place, self.decision(read(last[number]))
            last[number] = place


class Reaching(Good):
    """Reads the first document to say how long it is, even if nothing is there."""

    def compare(self, sketches: Sequence[Any], read: Callable[[int], Document]) -> Iterator[tuple[int, Any]]:
        if not len(sketches[0]):
            yield 0, Decision("empty", "a shard has no document")
            return
        yield from super().compare(sketches, read)


class FirstLetter(Good):
    def number(self, document: Document) -> int:
        return super().number(document) + ord(document.text[0]) // 10**6


class Numbering(Good):
    """Compares a document with those of its own shard alone."""

    def sketch(self, documents: Sequence[Document]) -> Any:
        number_N = super().sketch(documents)
        number_N[: len(number_N) // 2] += 1
        return number_N


class Remembering(Good):
    def __init__(self) -> None:
        self.decided = 0

    def compare(self, sketches: Sequence[Any], read: Callable[[int], Document]) -> Iterator[tuple[int, Any]]:
        found = list(super().compare(sketches, read))
        skipped, self.decided = self.decided, self.decided + len(found)
        yield from found if not skipped else found[1:]


class Hashing(Good):
    def number(self, document: Document) -> int:
        return hash(document.text) % 32


class Chewing:
    """Cuts the last word off, again and again."""

    def judge(self, document: Document) -> Decision | None:
        words = document.text.split(" ")
        return Decision("last", "a word less", text=" ".join(words[:-1])) if len(words) > 20 else None


class Divided:
    """Decides otherwise where it is asked for the language."""

    def judge(self, document: Document) -> Decision | None:
        return Decision("long", "too many characters") if len(document.text) > 20 else None

    def judge_language(self, document: Document) -> tuple[str, Decision | None]:
        return "en", None


class Drawing(Good):
    def number(self, document: Document) -> int:
        random.random()
        return super().number(document)


of = described("cleaner", "A cleaner that breaks one law")
GOOD = of(Good)
BROKEN = {
    "cleaner/it-judges-or-compares": of(Both),
    "cleaner/decisions-have-a-rule-and-a-place": of(Nameless),
    "cleaner/what-is-repeated-stays": of(Neighbour),
    "cleaner/nothing-is-decided-of-nothing": of(Reaching),
    "cleaner/any-text-is-taken": of(FirstLetter),
    "cleaner/shards-play-no-part": of(Numbering),
    "cleaner/asked-again-it-decides-the-same": of(Remembering),
    "cleaner/processes-agree": of(Hashing),
    "cleaner/what-is-cleaned-is-clean": of(Chewing),
    "cleaner/cleaning-draws-no-global-random-numbers": of(Drawing),
    "cleaner/a-language-comes-with-the-same-decision": of(Divided),
}
