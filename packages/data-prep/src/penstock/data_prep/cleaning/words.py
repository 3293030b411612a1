"""Words and sentences, as the rules of quality count them.

Each rule takes its splitter as an argument, because thresholds hold for the words that they were tuned with. The
splitters here need no model and no language: they agree with spaCy's English ones closely enough that nearly all
verdicts are the same (`tests/benchmarks/quality.py` prints how many). Text without spaces between words, such as
Chinese or Thai, needs a splitter of its language.

Only the standard library is imported, so that another environment can run this file by itself.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeAlias, TypeVar

Split: TypeAlias = Callable[[str], Sequence[str]]
"""Text to its words, or to its sentences."""
Value = TypeVar("Value")

_TERMINAL = """
21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6 17D9-17DA
1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 2E53-2E54
3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F
FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239
1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C
11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88
"""
_SYMBOLS = """
0-8 B-1F 7F-9F AB B4 BB 2013-2014 2019 201C-201E 2026 2236 2501 25BA 3001-3002 3008-300D 3010-3011 FF01 FF05 FF08-FF09
FF0C FF0E FF11 FF1A-FF1B FF1F FF5E
"""


def _characters(ranges: str) -> Iterator[str]:
    for each in ranges.split():
        first, _, last = each.partition("-")
        yield from map(chr, range(int(first, 16), int(last or first, 16) + 1))


TERMINAL = frozenset(_characters(_TERMINAL))
"""Characters that end sentences: the property Sentence_Terminal of Unicode 15, and three Khmer signs."""
SYMBOLS = TERMINAL.union(string.punctuation, _characters(_SYMBOLS))
"""Characters that make no word by themselves: those that cc_net's normaliser takes for punctuation, control characters,
and ends of sentences."""

# What spaCy's tokenizer takes off the ends of a word, and where it cuts one.
_AROUND = "…,:;!?¿؟¡()[]{}<>_#*&。·।،؛٪\"'`«»—" + "".join(
    _characters("B4 6D4 2013 2018-201A 201C-201E FF01 FF0C FF1A-FF1B FF1F")
)
_BEFORE = _AROUND + "§%=+$£€¥"
_BEHIND = _AROUND + "."
_SINGLE = re.compile(r"\.\.+|.", re.DOTALL)
_INSIDE = re.compile(
    r"(\.\.+|…|(?<=[^\W\d_])(?:--?|[,~\u2013\u2014])(?=[^\W\d_])|(?<=[^\W_])[:<>=/](?=[^\W\d_])"
    r"|(?<=\d)[+*^-](?=[\d-])|(?<=[a-z])\.(?=[A-Z]))|(?=n['\u2019]t$)|(?=['\u2019](?:s|m|d|re|ve|ll)$)"
)
_SENTENCE_END = re.compile(r"""[.!?](?<![.\s].\.)(?<!\b[DMS]r\.)(?<!\bMrs\.)["'\u201d\u2019)\]]*\s+(?=\S)""")
_LONG, _MOST = 100, 1 << 17
"""Characters of a word that is too long to be kept, and how many are kept: some 40 MB at most. A megabyte of web text
has 20,000 different ones, and four have 80,000."""


def split_words(text: str) -> list[str]:
    """Pieces between spaces; punctuation around them, hyphens and English contractions are words of their own.

    >>> split_words("Don't stop (it's well-known): 3.5 km...")
    ['Do', "n't", 'stop', '(', 'it', "'s", 'well', '-', 'known', ')', ':', '3.5', 'km', '...']
    """
    return list(chain.from_iterable(map(_PARTS.__getitem__, text.split())))


def split_sentences(text: str) -> list[str]:
    """Ends after `.`, `!` or `?`, quotes and brackets that close, and a space; not after ellipses (`...`),
    initials (`J. Doe`, `U.S.`) and titles.

    >>> split_sentences('He asked "Why?" Dr. J. Doe of the U.S. office did not know. Nor did I...')
    ['He asked "Why?" ', 'Dr. J. Doe of the U.S. office did not know. ', 'Nor did I...']
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def repeats(pieces: Iterable[str]) -> tuple[int, int]:
    """How many pieces stood before, and their characters."""
    seen = set[str]()
    number = characters = 0
    for piece in pieces:
        if piece in seen:
            number += 1
            characters += len(piece)
        else:
            seen.add(piece)
    return number, characters


class Known(dict[str, Value]):
    """What a function gives for each word, kept for short words until there are too many.

    Nine of ten words of a text stood before: looked up, they cost a tenth of a call.
    """

    def __init__(self, function: Callable[[str], Value]) -> None:
        self._function = function

    def __missing__(self, word: str) -> Value:
        value = self._function(word)
        if len(word) < _LONG:
            if len(self) >= _MOST:
                self.clear()
            self[word] = value
        return value


def _parts(piece: str) -> tuple[str, ...]:
    """What stands before a word, its parts, and what stands behind it."""
    if piece.isalnum():
        return (piece,)
    first, last = piece[0], piece[-1]
    if piece[:-1].isalnum() and last in _BEHIND and not (last == "." and piece[-2].isupper()):
        return (piece[:-1], last)
    if piece[1:].isalnum() and first in _BEFORE:
        return (first, piece[1:])
    start = len(piece) - len(piece.lstrip(_BEFORE))
    end = max(start, len(piece.rstrip(_BEHIND)))
    if piece[end : end + 1] == "." and piece[end - 1 : end].isupper() and not piece[end - 2 : end - 1].isupper():
        end += 1  # the point of an initial
    word = piece[start:end]
    parts = [word] if word.isalnum() or "://" in word else filter(None, _INSIDE.split(word))
    return (*_single(piece[:start]), *parts, *_single(piece[end:]))


def _single(around: str) -> Sequence[str]:
    """Each character by itself, and points in a row together. A string is the sequence of its characters."""
    return around if len(around) < 2 else _SINGLE.findall(around)


_PARTS = Known(_parts)
