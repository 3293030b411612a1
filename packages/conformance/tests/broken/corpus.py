"""Corpora that break one law each."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from broken.described import described
from penstock.hooks import Problem, ProblemError
from penstock.hooks.config import Schema
from penstock.hooks.contracts import Document

LINES = [f"line {number} of a text" for number in range(20)]


class Settings(Schema):
    paths: tuple[str, ...]
    """Files, a document a line."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        (folder / "some.txt").write_text("\n".join(LINES))
        return {"paths": [str(folder / "some.txt")]}


class Good:
    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def documents(self) -> Iterator[Document]:
        for path in self.paths:
            try:
                lines = Path(path).read_text().splitlines()
            except FileNotFoundError as error:
                raise ProblemError(Problem("missing-file", "there is no such file", path)) from error
            yield from (Document(line, f"{path}:{number}") for number, line in enumerate(lines, 1))

    def fingerprint(self) -> dict[str, Any]:
        return {path: Path(path).stat().st_mtime_ns for path in self.paths}


class Listing(Good):
    def documents(self) -> Any:
        return list(super().documents())


class Surrogates(Good):
    def documents(self) -> Iterator[Document]:
        for document in super().documents():
            yield Document(document.text + "\udcff", document.source)


class Nameless(Good):
    def documents(self) -> Iterator[Document]:
        for document in super().documents():
            yield Document(document.text, "")


class Files(Good):
    """Says the file alone, which has several documents."""

    def documents(self) -> Iterator[Document]:
        for document in super().documents():
            yield Document(document.text, document.source.rpartition(":")[0])


class Exhausted(Good):
    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(paths)
        self.read = False

    def documents(self) -> Iterator[Document]:
        if not self.read:
            self.read = True
            yield from super().documents()


class SharedPlace(Good):
    def documents(self) -> Iterator[Document]:
        self.place = 0
        found = list(super().documents())
        while self.place < len(found):
            self.place += 1
            yield found[self.place - 1]


class Unsorted(Good):
    made = itertools.count()

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(paths)
        self.first = next(self.made) % 2

    def documents(self) -> Iterator[Document]:
        yield from itertools.islice(super().documents(), self.first, None)


class HashOrder(Good):
    def documents(self) -> Iterator[Document]:
        yield from sorted(super().documents(), key=lambda document: hash(document.text))


class Unpicklable(Good):
    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(paths)
        self.strip = lambda text: text.strip()


class Drawing(Good):
    def documents(self) -> Iterator[Document]:
        random.random()
        yield from super().documents()


class Silent(Good):
    def documents(self) -> Iterator[Document]:
        yield from Good([path for path in self.paths if Path(path).exists()]).documents()


class Blind(Good):
    def fingerprint(self) -> dict[str, Any]:
        return {"files": len(self.paths)}


of = described("corpus", "A corpus that breaks one law", frozenset({"fingerprint"}), "broken.corpus:Settings")
GOOD = of(Good)
BROKEN = {
    "corpus/it-yields-documents": of(Listing),
    "corpus/a-text-can-be-written": of(Surrogates),
    "corpus/a-source-is-a-place": of(Nameless),
    "corpus/a-source-names-one-document": of(Files),
    "corpus/it-is-read-again-from-the-start": of(Exhausted),
    "corpus/readings-do-not-disturb-one-another": of(SharedPlace),
    "corpus/objects-of-the-same-settings-agree": of(Unsorted),
    "corpus/processes-agree": of(HashOrder),
    "corpus/a-copy-is-the-same-corpus": of(Unpicklable),
    "corpus/reading-draws-no-global-random-numbers": of(Drawing),
    "corpus/a-missing-input-is-a-problem-that-names-it": of(Silent),
    "corpus/a-fingerprint-stands-for-the-input": of(Blind),
}
