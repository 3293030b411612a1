"""Filters that break one law each."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from broken.described import described
from penstock.hooks.contracts import Document


class Good:
    """Drops texts of fewer than 40 characters."""

    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in documents:
            if len(document.text) >= 40:
                yield document


class Texts(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Any]:
        for document in super().__call__(documents):
            yield document.text


class Announcing(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        found = super().__call__(documents)
        yield next(found, Document("there was nothing", "announcing"))
        yield from found


class Renaming(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in super().__call__(documents):
            yield Document(document.text, "renamed")


class Overtaking(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        found = super().__call__(documents)
        for document in found:
            yield from itertools.islice(found, 1)
            yield document


class Greedy(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        yield from super().__call__(iter(list(documents)))


class Swallowing(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        try:
            yield from super().__call__(documents)
        except Exception:  # the fault of this filter: the corpus breaks, and its training set just ends early
            return


class FirstLetter(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        return super().__call__(document for document in documents if document.text[0] != "#")


class Moody(Good):
    made = itertools.count()

    def __init__(self) -> None:
        self.least = 40 + next(self.made) % 2 * 400

    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        return (document for document in documents if len(document.text) >= self.least)


class Hashing(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        return (document for document in super().__call__(documents) if hash(document.text) % 8)


class Drawing(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        random.random()
        yield from super().__call__(documents)


class Stripping(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in super().__call__(documents):
            yield Document(document.text.rstrip("."), document.source)


class EverySecond(Good):
    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        yield from itertools.islice(super().__call__(documents), 0, None, 2)


class Remembering(Good):
    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in super().__call__(documents):
            if document.text not in self.seen:
                self.seen.add(document.text)
                yield document


ALL = frozenset({"drops-only", "idempotent", "stateless"})
of = described("filter", "A filter that breaks one law", ALL)
GOOD = of(Good)
BROKEN = {
    "filter/it-yields-documents": of(Texts),
    "filter/nothing-comes-of-nothing": of(Announcing),
    "filter/a-source-is-one-of-the-input": of(Renaming),
    "filter/the-order-stays": of(Overtaking, frozenset({"stateless"})),
    "filter/a-document-passes-before-all-are-read": of(Greedy),
    "filter/an-error-of-the-corpus-comes-through": of(Swallowing),
    "filter/any-text-is-taken": of(FirstLetter),
    "filter/objects-of-the-same-settings-agree": of(Moody),
    "filter/processes-agree": of(Hashing),
    "filter/filtering-draws-no-global-random-numbers": of(Drawing),
    "filter/what-passes-is-unchanged": of(Stripping),
    "filter/twice-is-once": of(EverySecond),
    "filter/a-second-stream-is-filtered-as-the-first": of(Remembering),
}
