"""Cleaners: stages that decide which documents of a corpus stay, and say why the others do not.

Shape suffix: N documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.hooks.contracts.data import Document
from penstock.hooks.contracts.tensors import Array


@dataclass(frozen=True, slots=True)
class Decision:
    """What a stage does to a document; one without a decision passes unchanged.

    `rule` is the name of what decided, such as `gopher/words`, and `detail` a line for a person, such as "37 words, at
    least 50 are needed". A document whose `text` is given goes on with that text; it is removed if `text` is None.
    `repeats` is the source of the document that it repeats, if that is the reason.
    """

    rule: str
    detail: str = ""
    repeats: str | None = None
    text: str | None = None


class Judge(Protocol):
    """A cleaner that decides of each document alone."""

    def judge(self, document: Document) -> Decision | None:
        """The decision follows from the document and the settings."""
        ...


class LanguageJudge(Judge, Protocol):
    """A judge that finds out the language of each document. Languages are kept beside the decisions, and the page of a
    cleaned corpus counts them."""

    def judge_language(self, document: Document) -> tuple[str, Decision | None]:
        """The language, such as `en`, and what `judge` decides."""
        ...


class Comparer(Protocol):
    """A cleaner that compares documents: it makes a row of numbers of each, and then decides from all rows."""

    def sketch(self, documents: Sequence[Document]) -> Array:
        """[N, ...] a row for each document, which follows from that document and the settings. Called for a shard of
        the corpus at a time, in any order and in several processes; the rows are kept on disk."""
        ...

    def compare(self, sketches: Sequence[Array], read: Callable[[int], Document]) -> Iterator[tuple[int, Decision]]:
        """Decisions by the place of their document in the corpus, ascending. `sketches` are the rows of each shard in
        order, and `read` gives the document at a place."""
        ...
