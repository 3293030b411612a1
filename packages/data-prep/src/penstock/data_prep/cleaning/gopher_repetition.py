"""Gopher's rules of repetition (Rae et al. 2021, "Scaling Language Models", appendix A1.1, table A1).

n-grams are compared by 64-bit hashes of their characters: two of a document of 10,000 words collide with a probability
of 3e-12.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from penstock.data_prep.cleaning.windows import contained
from penstock.data_prep.cleaning.words import Split, repeats, split_words
from penstock.hooks.contracts import Decision, Document

Limits: TypeAlias = Sequence[tuple[int, float]]
"""Pairs of n and the largest share of characters."""
Integers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Hashes: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]

TOP = ((2, 0.2), (3, 0.18), (4, 0.16))
REPEATED = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_KEPT = 1 << 16
"""Powers that are computed once: those of nearly all documents, half a megabyte a base."""
_PARAGRAPH_END = re.compile(r"\n{2,}")


class GopherRepetition:
    """Removes documents that repeat paragraphs, lines or n-grams of words. None, and an empty list, turn a rule off;
    the first rule that fails decides."""

    def __init__(
        self,
        *,
        maximum_paragraphs: float | None = 0.3,
        maximum_paragraph_characters: float | None = 0.2,
        maximum_lines: float | None = 0.3,
        maximum_line_characters: float | None = 0.2,
        top: Limits = TOP,
        repeated: Limits = REPEATED,
    ) -> None:
        self._paragraphs = (maximum_paragraphs, maximum_paragraph_characters)
        self._lines = (maximum_lines, maximum_line_characters)
        self._top = tuple(top)
        self._repeated = tuple(repeated)
        self.split: Split = split_words
        """Another splitter may be put here."""

    def judge(self, document: Document) -> Decision | None:
        found = next(self._failures(document.text), None)
        return found and Decision(f"gopher-repetition/{found[0]}", found[1])

    def _failures(self, text: str) -> Iterator[tuple[str, str]]:
        if not text:
            yield "empty", "no text"
            return
        yield from _pieces("paragraph", _paragraphs(text.strip()), len(text), self._paragraphs)
        yield from _pieces("line", _lines(text), len(text), self._lines)
        words = self.split(text)
        spaced, joined = grams_of(words)
        for n, limit in self._top:
            share = top_characters(spaced, n, limit * len(text) - 1) / len(text)
            if share > limit:
                yield f"top-{n}-gram", f"{share:.3f} of characters are in one {n}-gram, at most {limit:g} are allowed"
        for n, limit in self._repeated:
            share = repeated_characters(joined, n, limit * len(text) - 1) / len(text)
            if share > limit:
                of = f"of characters are in {n}-grams that stood before"
                yield f"repeated-{n}-grams", f"{share:.3f} {of}, at most {limit:g} are allowed"


class Grams:
    """The n-grams of words W, written with a separator or without, as 64-bit hashes.

    A hash is the sum, modulo 2**64, of the characters times powers of an odd base. Sums from the beginning of the text
    are subtracted and the start is divided out: equal n-grams have equal hashes, wherever they stand and however they
    are cut into words.
    """

    def __init__(self, hash_W: Hashes, length_W: Integers, separator: str) -> None:
        """`hash_W` are the hashes of the words by themselves."""
        self._ends_W = np.cumsum(length_W + len(separator)) - len(separator)
        self._starts_W = self._ends_W - length_W
        size = int(self._ends_W[-1]) + 1 if length_W.size else 1
        powers = _powers(_BASE, size)
        terms_W = hash_W * powers[self._starts_W]
        behind_W = terms_W if not separator else terms_W + np.uint64(ord(separator)) * powers[self._ends_W]
        sums_W = np.cumsum(behind_W)
        self._sums_to_starts_W = sums_W - behind_W
        self._sums_to_ends_W = self._sums_to_starts_W + terms_W
        self._inverses_W = _powers(_INVERSE, size)[self._starts_W]

    def hashes(self, n: int) -> Hashes:
        """uint64 [W - n + 1], or [0] if there are fewer words than n."""
        count = max(0, self._starts_W.size - n + 1)
        return (self._sums_to_ends_W[n - 1 :] - self._sums_to_starts_W[:count]) * self._inverses_W[:count]

    def longest(self, n: int) -> int:
        """Characters of the longest n-gram, of which the text has at least one."""
        return int((self._ends_W[n - 1 :] - self._starts_W[: self._starts_W.size - n + 1]).max())

    def lengths(self, places: Integers, n: int) -> list[int]:
        """Characters of n-grams."""
        return (self._ends_W[places + (n - 1)] - self._starts_W[places]).tolist()


def grams_of(words: Sequence[str]) -> tuple[Grams, Grams]:
    """Written with a space between words, and without."""
    length_W = np.fromiter(map(len, words), np.int64, len(words))
    codes = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), np.uint32)
    sums = np.zeros(codes.size + 1, np.uint64)
    np.cumsum(codes * _powers(_BASE, codes.size), out=sums[1:])
    ends_W = np.cumsum(length_W)
    starts_W = ends_W - length_W
    hash_W = (sums[ends_W] - sums[starts_W]) * _powers(_INVERSE, codes.size + 1)[starts_W]
    return Grams(hash_W, length_W, " "), Grams(hash_W, length_W, "")


def top_characters(grams: Grams, n: int, least: float = 0) -> int:
    """Characters of the n-gram that stands most often, all its places together; of several such, of the first. It may
    say 0 where they are not more than `least`, which it knows sooner."""
    hashes = grams.hashes(n)
    if not hashes.size:
        return 0
    ordered = np.sort(hashes)
    times = int(least / max(1, grams.longest(n)))  # of the longest n-gram are not more
    if times > 1 and not (ordered[times - 1 :] == ordered[: 1 - times]).any():
        return 0
    lasts = np.flatnonzero(ordered[1:] != ordered[:-1])
    edges = np.concatenate(([-1], lasts, [hashes.size - 1]))
    runs = edges[1:] - edges[:-1]
    most = int(runs.max())
    first = contained(hashes, ordered[edges[1:][runs == most]]).argmax(keepdims=True)
    return most * grams.lengths(first, n)[0]


def repeated_characters(grams: Grams, n: int, least: float = 0) -> int:
    """Characters of n-grams that stood before, read from left to right: behind one of them, the next word begins
    another. It may say 0 where they are not more than `least`, which it knows sooner."""
    hashes = grams.hashes(n)
    ordered = np.sort(hashes)
    again = ordered[1:] == ordered[:-1]
    number = np.count_nonzero(again)
    if not number or number * grams.longest(n) <= least:
        return 0
    places = np.flatnonzero(contained(hashes, ordered[1:][again]))
    seen = set[int]()
    characters = free = 0
    for place, gram, length in zip(places.tolist(), hashes[places].tolist(), grams.lengths(places, n), strict=True):
        if place >= free:
            if gram in seen:
                characters += length
                free = place + n
            seen.add(gram)
    return characters


def _paragraphs(text: str) -> list[str]:
    return _PARAGRAPH_END.split(text) if "\n\n" in text else [text]


def _lines(text: str) -> list[str]:
    """Lines that have text; a new line at the beginning or at the end of the text has an empty one, as in datatrove."""
    outer = text.startswith("\n") + text.endswith("\n")
    return [line for line in text.split("\n") if line] + [""] * outer


def _pieces(
    name: str, pieces: Sequence[str], characters: int, limits: tuple[float | None, float | None]
) -> Iterator[tuple[str, str]]:
    number, repeated = repeats(pieces)
    share, character_share = number / len(pieces), repeated / characters
    if limits[0] is not None and share > limits[0]:
        yield f"{name}s", f"{share:.3f} of {name}s stood before, at most {limits[0]:g} are allowed"
    if limits[1] is not None and character_share > limits[1]:
        of = f"of characters are in {name}s that stood before"
        yield f"{name}-characters", f"{character_share:.3f} {of}, at most {limits[1]:g} are allowed"


def _powers(base: int, count: int) -> Hashes:
    """uint64 [count]: the base to the power of 0, 1, ..."""
    if count <= _KEPT:
        return _kept_powers(base)[:count]
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


@cache
def _kept_powers(base: int) -> Hashes:
    return np.concatenate((np.ones(1, np.uint64), np.cumprod(np.full(_KEPT - 1, base, np.uint64))))
