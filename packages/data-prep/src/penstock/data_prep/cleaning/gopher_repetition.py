"""Gopher's rules of repetition (Rae et al. 2021, "Scaling Language Models", appendix A1.1, table A1).

The nine rules of n-grams would need nine passes over the words. Hashes of the shortest n-grams bound what all nine
measure, and a rule itself is asked only where its bound is above the limit. Equal n-grams have equal hashes, and a
collision only raises the bound, so the verdicts are exactly those of the rules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np

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
_PARAGRAPH_END, _LINE_END = re.compile(r"\n{2,}"), re.compile(r"\n+")


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
        split: Split = split_words,
    ) -> None:
        self._paragraphs = (maximum_paragraphs, maximum_paragraph_characters)
        self._lines = (maximum_lines, maximum_line_characters)
        self._top = tuple(top)
        self._repeated = tuple(repeated)
        self._split = split

    def judge(self, document: Document) -> Decision | None:
        found = next(self._failures(document.text), None)
        return found and Decision(f"gopher-repetition/{found[0]}", found[1])

    def _failures(self, text: str) -> Iterator[tuple[str, str]]:
        if not text:
            yield "empty", "no text"
            return
        yield from _pieces("paragraph", _PARAGRAPH_END.split(text.strip()), len(text), self._paragraphs)
        yield from _pieces("line", _LINE_END.split(text), len(text), self._lines)
        words = self._split(text)
        for (n, limit), bound in zip(self._top, _top_bounds(words, [n for n, _ in self._top]), strict=True):
            if bound / len(text) > limit and (share := top_characters(words, n) / len(text)) > limit:
                yield f"top-{n}-gram", f"{share:.3f} of characters are in one {n}-gram, at most {limit:g} are allowed"
        sizes = [n for n, _ in self._repeated]
        for (n, limit), bound in zip(self._repeated, _repeated_bounds(words, sizes), strict=True):
            if bound / len(text) > limit and (share := repeated_characters(words, n) / len(text)) > limit:
                of = f"of characters are in {n}-grams that stood before"
                yield f"repeated-{n}-grams", f"{share:.3f} {of}, at most {limit:g} are allowed"


def top_characters(words: Sequence[str], n: int) -> int:
    """Characters, spaces between words included, of the n-gram that stands most often; of several, of the first."""
    counts = Counter(" ".join(words[start : start + n]) for start in range(len(words) - n + 1))
    return max((times * len(gram) for gram, times in counts.most_common(1)), default=0)


def repeated_characters(words: Sequence[str], n: int) -> int:
    """Characters of n-grams that stood before, read from left to right: behind one of them, the next word begins
    another."""
    seen = set[str]()
    characters = start = 0
    while start + n <= len(words):
        gram = "".join(words[start : start + n])
        if gram in seen:
            characters += len(gram)
            start += n
        else:
            seen.add(gram)
            start += 1
    return characters


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


def _top_bounds(words: Sequence[str], sizes: Sequence[int]) -> list[int]:
    """At least `top_characters` of each size. An n-gram is covered by k of the shortest grams, n / shortest rounded up,
    and each of those stands as often as it at least: so its characters are at most k times the most that belong to one
    of the shortest, with a space behind each."""
    shortest = min(sizes, default=0)
    if not 0 < shortest <= len(words):
        return [0] * len(sizes)
    ends = np.fromiter(accumulate(len(word) + 1 for word in words), np.int64, len(words))
    starts = np.concatenate(([0], ends[:-1]))[: len(words) - shortest + 1]
    ends = ends[shortest - 1 :] - 1
    _, first, times = np.unique(_hashes(" ".join(words), starts, ends), return_index=True, return_counts=True)
    most = int((times * (ends - starts + 1)[first]).max())
    return [-(-n // shortest) * most for n in sizes]


def _repeated_bounds(words: Sequence[str], sizes: Sequence[int]) -> list[int]:
    """At least `repeated_characters` of each size: the characters of words that are in one of the shortest grams which
    stood before. Longer grams that stood before consist of those."""
    shortest = min(sizes, default=0)
    if not 0 < shortest <= len(words):
        return [0] * len(sizes)
    bounds = np.zeros(len(words) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, words), np.int64, len(words)), out=bounds[1:])
    hashes = _hashes("".join(words), bounds[:-shortest], bounds[shortest:])
    order = np.argsort(hashes, kind="stable")
    before = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
    covered = np.zeros(len(words) + 1, np.int64)
    covered[before] += 1
    covered[before + shortest] -= 1
    characters = int(np.diff(bounds)[np.cumsum(covered[:-1]) > 0].sum())
    return [characters] * len(sizes)


def _hashes(text: str, starts: Integers, ends: Integers) -> Hashes:
    """A hash of each span of text: the sum, modulo 2**64, of its characters times powers of an odd base. Sums from the
    beginning of the text are subtracted, and the start is divided out, so equal spans have equal hashes."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    sums = np.zeros(codes.size + 1, np.uint64)
    np.cumsum(codes * np.cumprod(np.full(codes.size, _BASE, np.uint64)), out=sums[1:])
    inverses = np.full(codes.size + 1, _INVERSE, np.uint64)
    inverses[0] = 1
    return (sums[ends] - sums[starts]) * np.cumprod(inverses)[starts]
