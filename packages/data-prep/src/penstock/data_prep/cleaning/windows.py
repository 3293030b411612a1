"""Texts as tokens, and a 64-bit hash of every run of N tokens, by a few passes of numpy over the bytes.

A token is a run of characters between ASCII whitespace. A character from U+3000 to U+9FFF (Chinese, Japanese) is a
token of its own, because these scripts write no spaces; Thai, Lao, Khmer and Burmese, which write few, have tokens as
long as a phrase. A token of more than `LONGEST` bytes is broken into several. The amount of whitespace does not
count, so a paragraph that is wrapped otherwise has the same tokens.

A form feed ends a passage: no window crosses one. It stands between documents, and where text was cut out, so that the
words on both sides of a cut never make a window of their own. Every word splitter takes it for whitespace.

Shape suffixes: B bytes, T tokens, W windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.hooks.contracts import Array

BREAK = "\f"
LONGEST = 1024
"""Bytes of a token. A gigabyte of base64 without a space becomes a million tokens and needs no memory of its own."""

_PIECE = 1 << 18  # bytes hashed at once: the arrays of a piece stay in the cache
_TOGETHER = 1 << 10  # bytes of a run from which on it is compared by itself
_BYTE, _TOKEN = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, so that their powers have inverses modulo 2**64

_BLANKS = " \t\n\v\f\r"
_BLANK = np.zeros(256, bool)
_BLANK[list(_BLANKS.encode())] = True


@dataclass(frozen=True, slots=True)
class Tokens:
    """Where the tokens of some bytes are."""

    starts_T: Array  # int64
    ends_T: Array  # int64
    hashes_T: Array  # uint64


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of some bytes that lie in one passage each: window w is made of N tokens from `first_W[w]` on."""

    tokens: Tokens
    first_W: Array  # int64, ascending
    hashes_W: Array  # uint64
    length: int

    @property
    def starts_W(self) -> Array:
        return self.tokens.starts_T[self.first_W]

    @property
    def ends_W(self) -> Array:
        return self.tokens.ends_T[self.first_W + self.length - 1]


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def find_tokens(data_B: Array) -> Tokens:
    """The tokens of UTF-8 (uint8 [B]); those after any whitespace depend on nothing before it."""
    pieces: list[tuple[Array, Array, Array]] = []
    at = 0
    while at < len(data_B):
        piece = data_B[at : at + _PIECE]
        starts, ends = _boundaries(piece)
        after = len(piece)
        if at + after < len(data_B) and len(ends) and ends[-1] == after:  # the next piece begins with this token
            after, starts, ends = starts[-1], starts[:-1], ends[:-1]
        pieces.append((starts + at, ends + at, _token_hashes(piece, starts, ends)))
        at += after
    if not pieces:
        return Tokens(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))
    return Tokens(*(pieces[0] if len(pieces) == 1 else map(np.concatenate, zip(*pieces, strict=True))))


def find_windows(data_B: Array, tokens: Tokens, length: int) -> Windows:
    """The windows of `length` tokens, at least 1, of the bytes that the tokens were found in."""
    count = max(len(tokens.starts_T) - length + 1, 0)
    begun_T = np.searchsorted(tokens.starts_T, np.flatnonzero(data_B == ord(BREAK)))  # by passages after the first
    edges_T = np.bincount(np.maximum(begun_T - length + 1, 0), minlength=len(tokens.starts_T) + 1)
    crossing_T = np.cumsum(edges_T - np.bincount(begun_T, minlength=len(tokens.starts_T) + 1))
    first_W = np.flatnonzero(crossing_T[:count] == 0)
    return Windows(tokens, first_W, _run_hashes(tokens.hashes_T, length)[first_W], length)


def same_tokens(data_B: Array, other_B: Array) -> bool:
    """Whether two pieces of UTF-8 have the same tokens, byte for byte."""
    if np.array_equal(data_B, other_B):
        return True
    (starts, ends), (other_starts, other_ends) = _boundaries(data_B), _boundaries(other_B)
    return np.array_equal(ends - starts, other_ends - other_starts) and np.array_equal(
        data_B[~_BLANK[data_B]], other_B[~_BLANK[other_B]]
    )


def same_bytes(data_B: Array, places_W: Array, starts_W: Array, ends_W: Array, links_W: Array, sizes_W: Array) -> Array:
    """bool [W]: whether each window, from its start to its end, has the `sizes_W` bytes from its link on.

    Windows of successive places whose links follow in the same steps share all tokens but two, so they are compared
    at once; one that differs makes all of them different. A step of Python is a long run, or many short ones.
    """
    if not len(places_W):
        return np.empty(0, bool)
    shift_W = links_W - starts_W
    as_long_W = ends_W - starts_W == sizes_W
    parted = (np.diff(places_W) != 1) | (np.diff(shift_W) != 0) | (np.diff(as_long_W) != 0)
    lows = np.concatenate([[0], np.flatnonzero(parted) + 1])
    highs = np.concatenate([lows[1:], [len(places_W)]])
    starts, links, sizes = starts_W[lows], links_W[lows], ends_W[highs - 1] - starts_W[lows]
    same = as_long_W[lows]
    for run in np.flatnonzero(same & (sizes > _TOGETHER)).tolist():
        size = int(sizes[run])
        same[run] = np.array_equal(data_B[starts[run] :][:size], data_B[links[run] :][:size])
    short = np.flatnonzero(same & (sizes <= _TOGETHER))
    for at in range(0, len(short), _PIECE // _TOGETHER):
        some = short[at : at + _PIECE // _TOGETHER]
        length = sizes[some]
        begins = np.cumsum(length) - length
        within = np.arange(int(length.sum())) - np.repeat(begins, length)
        mine, theirs = (data_B[np.repeat(each[some], length) + within] for each in (starts, links))
        same[some] = ~np.logical_or.reduceat(mine != theirs, begins)
    return np.repeat(same, highs - lows)


def contained(hashes_W: Array, known: Array) -> Array:
    """bool [W]: whether each hash is one of `known`, which ascend."""
    if not len(known):
        return np.zeros(len(hashes_W), bool)
    return known[np.minimum(np.searchsorted(known, hashes_W), len(known) - 1)] == hashes_W


def cut_out(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with a form feed in place of each span [start, stop), without whitespace at its ends. Spans ascend and
    do not overlap.

    >>> cut_out("to be or not to be", [(3, 5), (16, 18)])
    'to \\x0c or not to'
    """
    kept: list[str] = []
    at = 0
    for start, stop in spans:
        kept.append(text[at:start])
        at = stop
    return BREAK.join([*kept, text[at:]]).strip(_BLANKS)


def runs(marked: Array) -> Sequence[tuple[int, int]]:
    """[start, stop) of each run of True in a bool [T].

    >>> runs(np.array([True, False, True, True]))
    [(0, 1), (2, 4)]
    """
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _boundaries(data_B: Array) -> tuple[Array, Array]:
    """Starts and ends of tokens, int64 [T] each."""
    solid = ~_BLANK[data_B]
    first = solid.copy()
    first[1:] &= ~solid[:-1]
    alone = (data_B >= 0xE3) & (data_B <= 0xE9)  # lead bytes of U+3000 to U+9FFF, which take three bytes
    if alone.any():
        first |= alone
        first[3:] |= alone[:-3] & solid[3:]
    last = solid
    last[:-1] &= ~solid[1:] | first[1:]
    starts, ends = np.flatnonzero(first), np.flatnonzero(last) + 1
    long = np.flatnonzero(ends - starts > LONGEST)
    if len(long):
        inner = [at for token in long for at in _breaks(data_B, int(starts[token]), int(ends[token]))]
        starts, ends = np.sort(np.append(starts, inner)), np.sort(np.append(ends, inner))
    return starts, ends


def _breaks(data_B: Array, start: int, end: int) -> list[int]:
    """Where a long token is broken: every `LONGEST` bytes, or a few bytes earlier where a character begins."""
    found: list[int] = []
    while end - start > LONGEST:
        start += LONGEST
        while data_B[start] & 0xC0 == 0x80:
            start -= 1
        found.append(start)
    return found


def _powers(base: int, count: int) -> Array:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


_UP = _powers(_BYTE, _PIECE)
_DOWN = _powers(pow(_BYTE, -1, 1 << 64), _PIECE)


def _token_hashes(data_B: Array, starts_T: Array, ends_T: Array) -> Array:
    """A polynomial in the bytes of each token modulo 2**64, as the difference of two prefix sums; then mixed, because
    the low bits of a polynomial know only the low bits of the bytes (Pachocki and Radoszewski, 2013)."""
    sums = np.zeros(len(data_B) + 1, np.uint64)
    np.cumsum((data_B.astype(np.uint64) + np.uint64(1)) * _UP[: len(data_B)], out=sums[1:])
    hashes = (sums[ends_T] - sums[starts_T]) * _DOWN[starts_T]
    for shift, factor in ((32, 0xBF58476D1CE4E5B9), (29, 0x94D049BB133111EB), (32, 1)):
        hashes ^= hashes >> np.uint64(shift)
        hashes *= np.uint64(factor)
    return hashes


def _run_hashes(hashes_T: Array, length: int) -> Array:
    """uint64 [T - length + 1]: a polynomial in the hashes of each run of tokens, from runs of 1, 2, 4, ... tokens."""
    total = np.zeros(max(len(hashes_T) - length + 1, 0), np.uint64)
    run, width, done = hashes_T, 1, 0
    while done < length:
        if length & width:
            total += run[done:][: len(total)] * np.uint64(pow(_TOKEN, done, 1 << 64))
            done += width
        run = run[: max(len(run) - width, 0)] + run[width:] * np.uint64(pow(_TOKEN, width, 1 << 64))
        width *= 2
    return total
