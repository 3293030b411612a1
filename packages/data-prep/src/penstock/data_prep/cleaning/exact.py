"""Equal documents, paragraphs or lines: the first of the corpus stays, the others go.

What is compared is a 128-bit hash of the text, or of what a normaliser makes of it; the normaliser's version is hashed
too. That any two of 10**10 texts share a hash has a probability of 1.5e-19.

Shape suffixes: N documents, U units (documents, paragraphs or lines).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal

import numpy as np
import xxhash

from penstock.data_prep.cleaning.normalise import Normaliser, require_choice
from penstock.hooks.contracts import Array, Decision, Document
from penstock.hooks.problems import Problem, ProblemError

Unit = Literal["document", "paragraph", "line"]
_SEPARATORS = {"paragraph": re.compile(r"(\n\s*\n)"), "line": re.compile(r"(\n)")}


class Exact:
    """Removes documents that are equal to an earlier one, or cuts out paragraphs or lines that stand earlier.

    Paragraphs stand between blank lines. A paragraph or line of fewer than `min_characters` stays: a closing brace is
    no copy of another one. A document is removed if nothing is left of it. Without a normaliser texts are compared as
    they are, as is a text of which the normaliser leaves nothing. Raises `ProblemError` for settings out of range.
    """

    def __init__(self, unit: Unit = "document", normaliser: Normaliser | None = None, min_characters: int = 20) -> None:
        require_choice("unit", unit, ("document", "paragraph", "line"))
        if min_characters < 1:
            raise ProblemError(Problem("invalid-value", f"{min_characters} characters", "min_characters", "at least 1"))
        self._unit: Unit = unit
        self._normaliser = normaliser
        self._min_characters = min_characters
        self._prefix = f"{normaliser.version if normaliser else 'as it is'}\n"

    def sketch(self, documents: Sequence[Document]) -> Array:
        """uint64 [N, 2]: the hash of each document. Documents have any number of paragraphs or lines, so of these it is
        only how many are compared, int64 [N], and `compare` hashes them."""
        if self._unit == "document":
            return _keys(b"".join(self._digest(document.text) for document in documents))
        return np.array([len(self._compared(self._split(document.text))) for document in documents], np.int64)

    def compare(self, sketches: Sequence[Array], read: Callable[[int], Document]) -> Iterator[tuple[int, Decision]]:
        if self._unit == "document":
            return self._equal_documents(np.concatenate([_keys(b""), *sketches]), read)
        return self._equal_parts(np.concatenate([np.empty(0, np.int64), *sketches]), read)

    def _equal_documents(self, keys_N: Array, read: Callable[[int], Document]) -> Iterator[tuple[int, Decision]]:
        first_N = first_of_each(keys_N)
        for document in np.flatnonzero(first_N < np.arange(len(first_N))).tolist():
            source = read(int(first_N[document])).source
            yield document, Decision("exact/document", "equal to an earlier document", source)

    def _equal_parts(self, counts_N: Array, read: Callable[[int], Document]) -> Iterator[tuple[int, Decision]]:
        ends_N = np.cumsum(counts_N)
        digests = bytearray()
        for document in np.flatnonzero(counts_N).tolist():
            pieces = self._split(read(document).text)
            digests += b"".join(self._digest(pieces[place]) for place in self._compared(pieces))
        first_U = first_of_each(_keys(digests))
        repeated = np.flatnonzero(first_U < np.arange(len(first_U)))
        owners = np.searchsorted(ends_N, first_U[repeated], "right").tolist()
        documents = np.searchsorted(ends_N, repeated, "right").tolist()
        found = zip(documents, repeated.tolist(), owners, strict=True)
        for document, parts in groupby(found, key=lambda part: part[0]):
            _, units, owned_by = zip(*parts, strict=True)
            begin = int(ends_N[document] - counts_N[document])
            other = next((owner for owner in owned_by if owner != document), None)
            decision = self._without(read(document), [unit - begin for unit in units])
            yield document, decision if other is None else replace(decision, repeats=read(other).source)

    def _without(self, document: Document, repeated: Sequence[int]) -> Decision:
        pieces = self._split(document.text)
        compared = self._compared(pieces)
        cut = {compared[number] for number in repeated}
        # The separator after a part goes with it.
        rest = "".join(piece for place, piece in enumerate(pieces) if place - place % 2 not in cut)
        if len(pieces) - 1 in cut and rest:
            last = max(place for place in range(0, len(pieces), 2) if place not in cut)
            rest = rest.removesuffix(pieces[last + 1])
        detail = f"{len(cut):,} of {len(pieces) // 2 + 1:,} {self._unit}s stand earlier"
        return Decision(f"exact/{self._unit}", detail, text=rest if rest.strip() else None)

    def _split(self, text: str) -> list[str]:
        """Paragraphs or lines at the even places, what separates them between."""
        return _SEPARATORS[self._unit].split(text)

    def _compared(self, pieces: Sequence[str]) -> list[int]:
        return [place for place in range(0, len(pieces), 2) if len(pieces[place].strip()) >= self._min_characters]

    def _digest(self, text: str) -> bytes:
        compared = (self._normaliser(text) if self._normaliser else "") or text
        return xxhash.xxh3_128_digest((self._prefix + compared).encode("utf-8", "surrogatepass"))


def first_of_each(keys_U: Array) -> Array:
    """int64 [U]: for each key (uint64 [U, 2]), the first place where it stands.

    >>> first_of_each(np.array([[5, 1], [7, 1], [5, 1]], np.uint64)).tolist()
    [0, 1, 0]
    """
    if not len(keys_U):
        return np.empty(0, np.int64)
    order = np.lexsort((keys_U[:, 1], keys_U[:, 0]))  # stable: equal keys stay in their order
    new = np.ones(len(order), bool)
    new[1:] = (keys_U[order[1:]] != keys_U[order[:-1]]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first


def _keys(digests: bytes | bytearray) -> Array:
    """uint64 [U, 2] of digests of 16 bytes."""
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)
