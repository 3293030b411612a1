"""Gopher's rules of quality (Rae et al. 2021, "Scaling Language Models", appendix A1.1).

The paper leaves open which words its first two rules count. As datatrove does, they leave out words that consist of
symbols alone, while shares are of all words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from penstock.data_prep.cleaning.words import SYMBOLS, Known, Split, split_words
from penstock.hooks.contracts import Decision, Document

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""The paper's eight; prose of 50 words has two of them."""


class Gopher:
    """Removes documents that are no prose: by the number and length of words, by symbols, bullets, ellipses, letters
    and stop words. None turns a rule off. The rules are asked in the order of the arguments; the first that fails
    decides.
    """

    def __init__(
        self,
        *,
        minimum_words: int | None = 50,
        maximum_words: int | None = 100_000,
        minimum_mean_length: float | None = 3,
        maximum_mean_length: float | None = 10,
        maximum_hashes: float | None = 0.1,
        maximum_ellipses: float | None = 0.1,
        maximum_bullet_lines: float | None = 0.9,
        maximum_ellipsis_lines: float | None = 0.3,
        minimum_with_letters: float | None = 0.8,
        minimum_stop_words: int | None = 2,
        stop_words: Sequence[str] = STOP_WORDS,
    ) -> None:
        self._words = (minimum_words, maximum_words)
        self._mean_length = (minimum_mean_length, maximum_mean_length)
        self._shares = (maximum_hashes, maximum_ellipses)
        self._line_shares = (maximum_bullet_lines, maximum_ellipsis_lines)
        self._with_letters = minimum_with_letters
        self._minimum_stop_words = minimum_stop_words
        self._stop_words = frozenset(stop_words)
        self.split: Split = split_words
        """Another splitter may be put here."""

    def judge(self, document: Document) -> Decision | None:
        found = next(self._failures(document.text), None)
        return found and Decision(f"gopher/{found[0]}", found[1])

    def _failures(self, text: str) -> Iterator[tuple[str, str]]:
        """Rule and detail of each rule that fails."""
        listed = self.split(text)
        all_words = len(listed)
        kinds = np.fromiter(map(_KINDS.__getitem__, listed), np.int64, all_words)
        counted = kinds[kinds & _WORD > 0] >> 2
        words, characters = counted.size, int(counted.sum())
        least, most = self._words
        if least is not None and words < least:
            yield "few-words", f"{words} words, at least {least} are needed"
        if most is not None and words > most:
            yield "many-words", f"{words} words, at most {most} are allowed"
        if not words:
            return  # shares of nothing
        shortest, longest = self._mean_length
        length = characters / words
        if shortest is not None and length < shortest:
            yield "short-words", f"a word has {length:.2f} characters on average, at least {shortest:g} are needed"
        if longest is not None and length > longest:
            yield "long-words", f"a word has {length:.2f} characters on average, at most {longest:g} are allowed"
        hashes, ellipses = self._shares
        yield from _above("hashes", "hashes a word", text.count("#") / all_words, hashes)
        yield from _above("ellipses", "ellipses a word", (text.count("...") + text.count("…")) / all_words, ellipses)
        lines = text.splitlines()
        bullets, ends = self._line_shares
        yield from _above("bullets", "of lines begin with a bullet", _bullets(lines) / len(lines), bullets)
        yield from _above("ellipsis-lines", "of lines end with an ellipsis", _ellipses(lines) / len(lines), ends)
        if self._with_letters is not None:
            share = np.count_nonzero(kinds & _LETTER) / all_words
            if share < self._with_letters:
                yield "letters", f"{share:.3f} of words have a letter, at least {self._with_letters:g} are needed"
        if self._minimum_stop_words is not None:
            known = len(self._stop_words.intersection(listed))
            if known < self._minimum_stop_words:
                yield "stop-words", f"{known} different stop words, at least {self._minimum_stop_words} are needed"


_LETTER, _WORD = 1, 2


def _kind(word: str) -> int:
    """Whether a word has a letter (bit 0), whether it is more than symbols (bit 1), and its length (the bits above)."""
    has_letter = word.isalpha() or any(map(str.isalpha, word))
    is_word = has_letter or not SYMBOLS.issuperset(word)
    return len(word) << 2 | is_word << 1 | has_letter


_KINDS = Known(_kind)


def _above(rule: str, of: str, share: float, limit: float | None) -> Iterator[tuple[str, str]]:
    if limit is not None and share > limit:
        yield rule, f"{share:.3f} {of}, at most {limit:g} are allowed"


def _bullets(lines: Sequence[str]) -> int:
    return sum(line.lstrip().startswith(("•", "-")) for line in lines)


def _ellipses(lines: Sequence[str]) -> int:
    return sum(line.rstrip().endswith(("...", "…")) for line in lines)
