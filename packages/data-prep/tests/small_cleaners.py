"""Cleaners of a few lines, as a plugin: `Registry.discover(Selection(files=(__file__,)))`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from penstock.hooks import Component, hookimpl
from penstock.hooks.contracts import Decision, Document


class Shout:
    """Makes a text lower case that has no small letter, and removes empty ones."""

    def judge(self, document: Document) -> Decision | None:
        if not document.text.strip():
            return Decision("shout/empty")
        if document.text.upper() == document.text.lower() or document.text != document.text.upper():
            return None
        return Decision("shout/upper", "no small letter", text=document.text.lower())


class Once:
    """Keeps the first document of each length and first letter."""

    def sketch(self, documents: Sequence[Document]) -> Any:
        rows = [(len(document.text), ord((document.text or "\0")[0])) for document in documents]
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def compare(self, sketches: Sequence[Any], read: Callable[[int], Document]) -> Iterator[tuple[int, Decision]]:
        first: dict[tuple[int, int], int] = {}
        for place, (length, letter) in enumerate(np.concatenate(sketches).tolist()):
            if first.setdefault((length, letter), place) != place:
                kept = read(first[length, letter])
                yield place, Decision("once", kept.text[:20], kept.source)


class Raising:
    def judge(self, document: Document) -> Decision | None:
        if document.text == "bad":
            raise ArithmeticError("no factor")
        return None


@hookimpl
def cleaners() -> list[Component]:
    return [
        Component("cleaner", "shout", "small_cleaners:Shout", "Lower case"),
        Component("cleaner", "once", "small_cleaners:Once", "First of each length"),
        Component("cleaner", "raising", "small_cleaners:Raising", "Raises"),
    ]
