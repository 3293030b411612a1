"""Spans of N tokens that stand in several documents: the first document keeps them, later ones lose them.

As in "Deduplicating Training Data Makes Language Models Better" (Lee et al., 2022, arXiv 2107.06499), with windows of
tokens in place of a suffix array. Two passes over the text, which is held once:

1. The hashes of all windows are sorted; those that occur at least twice are kept. They are sorted in parts, so that
   memory stays below 6 bytes a byte of text however short the tokens are.
2. Documents are read in order. A window that an earlier document has as it is kept is a repeat, after its tokens were
   compared. What is left of the document may be repeated by later ones.

So every span that is cut stands in full in an earlier document as it is kept, and cleaning again changes nothing: a cut
leaves a form feed, which no window crosses. What a document repeats of itself stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from penstock.data_prep.cleaning.normalise import require_choice
from penstock.data_prep.cleaning.windows import (
    BREAK,
    Tokens,
    Windows,
    contained,
    cut_out,
    encoded,
    find_tokens,
    find_windows,
    runs,
    same_bytes,
    same_tokens,
)
from penstock.hooks.contracts import Array, Decision, Document
from penstock.hooks.problems import Problem, ProblemError

_BLOCK = 1 << 20  # bytes of documents that are hashed together
_SORTED_SHARE = 2.5  # bytes of hashes sorted at once, a byte of text
_NEAR = 4096  # bytes between windows of one run: more than a token and the whitespace around it


@dataclass(frozen=True, slots=True)
class Repeats:
    """What a document repeats of earlier ones."""

    document: int
    """Its place in the corpus."""
    spans: Sequence[tuple[int, int]]
    """[start, stop) of each span in characters, ascending."""
    tokens: int
    """Tokens in the spans, out of `of` in the document."""
    of: int
    first: int
    """Place of the document that has the first window of the first span."""


class Substrings:
    """Cuts spans that repeat at least `tokens` tokens of an earlier document, or removes documents that repeat much.

    `cut` puts a form feed in place of each span. `remove` removes a document if spans hold at least `share` of its
    tokens, and leaves the others as they are. 50 tokens are the length of Lee et al. Raises `ProblemError` for settings
    out of range.
    """

    def __init__(self, tokens: int = 50, action: Literal["cut", "remove"] = "cut", share: float = 0.5) -> None:
        require_choice("action", action, ("cut", "remove"))
        if tokens < 2:
            raise ProblemError(Problem("invalid-value", f"a span of {tokens} tokens", "tokens", "at least 2"))
        if not 0 < share <= 1:
            raise ProblemError(Problem("invalid-value", f"a share of {share:g}", "share", "above 0, at most 1"))
        self._length = tokens
        self._action = action
        self._share = share

    def sketch(self, documents: Sequence[Document]) -> Array:
        """int64 [N, 2]: bytes and tokens of each document."""
        texts = [encoded(document.text) for document in documents]
        sizes = np.array([len(text) for text in texts], np.int64)
        blocks = _blocks(np.concatenate([[0], np.cumsum(sizes + 1)]))
        counts = np.concatenate([sizes[:0], *(_token_counts(texts[low:high]) for low, high in blocks)])
        return np.stack([sizes, counts], axis=1)

    def compare(self, sketches: Sequence[Array], read: Callable[[int], Document]) -> Iterator[tuple[int, Decision]]:
        corpus = _Corpus.read(np.concatenate([np.zeros((0, 2), np.int64), *sketches]), read)
        for found in self._repeats(corpus):
            yield found.document, self._decision(corpus, found, read(found.first).source)

    def _decision(self, corpus: _Corpus, found: Repeats, repeats: str) -> Decision:
        text = corpus.text(found.document)
        start, stop = found.spans[0]
        excerpt = " ".join(text[start : min(stop, start + 80)].split())
        detail = f"{found.tokens:,} of {found.of:,} tokens stand in earlier documents, from '{excerpt}' on"
        rest = cut_out(text, found.spans) if self._action == "cut" else ""
        return Decision(f"substrings/{self._action}", detail, repeats, rest or None)

    def _repeats(self, corpus: _Corpus) -> Iterator[Repeats]:
        earlier = _Earlier(corpus, self._repeated_hashes(corpus))
        for low, high in _blocks(corpus.offsets):
            for candidate in _candidates(corpus, earlier, low, high, self._length):
                hit = earlier.hold(candidate)
                covered = _covered(candidate.places[hit], self._length, len(candidate.tokens.starts_T))
                count = int(covered.sum())
                if self._action == "remove" and count < self._share * len(covered):
                    count, covered[:] = 0, False
                if count:
                    yield _found(corpus, candidate, covered, earlier.owner(candidate, hit))
                if self._action == "cut" or not count:
                    before = np.concatenate([[0], np.cumsum(covered)])
                    free = before[candidate.places] == before[candidate.places + self._length]
                    earlier.add(candidate, free)

    def _repeated_hashes(self, corpus: _Corpus) -> Array:
        """uint64 [G], ascending: hashes of the windows that the corpus has at least twice."""
        bits = 0
        while 8 * corpus.tokens > _SORTED_SHARE * len(corpus.data) * 2**bits:
            bits += 1
        found = [np.empty(0, np.uint64)]
        for part in range(2**bits):
            hashes = self._sorted_hashes(corpus, part, bits)
            found.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
        return np.concatenate(found)

    def _sorted_hashes(self, corpus: _Corpus, part: int, bits: int) -> Array:
        """The hashes whose highest `bits` bits are the number `part`; one that a block has more than twice stands twice
        of it, so that a text of few words needs no more memory."""
        hashes, count = np.empty(corpus.tokens, np.uint64), 0  # what is not written to takes no memory
        for low, high in _blocks(corpus.offsets):
            found = corpus.windows(low, high, self._length).hashes_W
            found = np.sort(found[found >> np.uint64(64 - bits) == part] if bits else found)
            found = np.concatenate([found[:2], found[2:][found[2:] != found[:-2]]])
            hashes[count : count + len(found)] = found
            count += len(found)
        hashes[:count].sort()
        return hashes[:count]


@dataclass(frozen=True, slots=True)
class _Corpus:
    """The UTF-8 of all documents with a form feed after each: uint8 [B]. Document i begins at `offsets[i]`."""

    data: Array
    offsets: Array  # int64 [N + 1]
    tokens: int

    @classmethod
    def read(cls, sizes: Array, read: Callable[[int], Document]) -> _Corpus:
        offsets = np.concatenate([[0], np.cumsum(sizes[:, 0] + 1)])
        data = np.full(offsets[-1], ord(BREAK), np.uint8)
        for document in range(len(sizes)):
            data[offsets[document] : offsets[document + 1] - 1] = np.frombuffer(encoded(read(document).text), np.uint8)
        return cls(data, offsets, int(sizes[:, 1].sum()))

    def windows(self, low: int, high: int, length: int) -> Windows:
        data = self.data[self.offsets[low] : self.offsets[high]]
        return find_windows(data, find_tokens(data), length)

    def text(self, document: int) -> str:
        data = self.data[self.offsets[document] : self.offsets[document + 1] - 1]
        return data.tobytes().decode("utf-8", "surrogatepass")

    def documents_at(self, bytes_W: Array) -> Array:
        return np.searchsorted(self.offsets, bytes_W, "right") - 1


def _blocks(offsets: Array) -> Iterator[tuple[int, int]]:
    """[low, high) of documents of about `_BLOCK` bytes together; a longer one is a block of its own."""
    low, last = 0, len(offsets) - 1
    while low < last:
        high = max(low + 1, int(np.searchsorted(offsets, offsets[low] + _BLOCK, "right")) - 1)
        yield low, high
        low = high


def _token_counts(texts: Sequence[bytes]) -> Array:
    """int64 [N]"""
    joined = np.frombuffer(BREAK.encode().join([*texts, b""]), np.uint8)
    ends = np.cumsum([len(text) + 1 for text in texts])
    return np.diff(np.searchsorted(find_tokens(joined).starts_T, ends), prepend=0)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A document with windows that the corpus has at least twice; W of these windows."""

    document: int
    tokens: Tokens  # of the document, with positions in the corpus
    places: Array  # int64 [W], ascending: the first token of each window
    groups: Array  # int64 [W]: windows of one hash have one number
    starts: Array  # int64 [W], position in the corpus
    ends: Array  # int64 [W]


def _candidates(corpus: _Corpus, earlier: _Earlier, low: int, high: int, length: int) -> Iterator[_Candidate]:
    base = corpus.offsets[low]
    windows = corpus.windows(low, high, length)
    chosen, groups = earlier.look_up(windows.hashes_W)
    first = windows.first_W[chosen]
    starts, ends = windows.starts_W[chosen] + base, windows.ends_W[chosen] + base
    tokens = windows.tokens
    token_limits = np.searchsorted(tokens.starts_T, corpus.offsets[low : high + 1] - base)
    limits = np.searchsorted(first, token_limits)
    for number in np.flatnonzero(np.diff(limits)).tolist():
        own, here = slice(*token_limits[number : number + 2]), slice(*limits[number : number + 2])
        yield _Candidate(
            low + number,
            Tokens(tokens.starts_T[own] + base, tokens.ends_T[own] + base, tokens.hashes_T[own]),
            first[here] - own.start,
            groups[here],
            starts[here],
            ends[here],
        )


class _Earlier:
    """For each hash that the corpus has at least twice: where the first window with it stands that was kept."""

    def __init__(self, corpus: _Corpus, hashes: Array) -> None:
        self._corpus = corpus
        self._hashes = hashes
        self._starts = np.full(len(hashes), -1, np.int64)
        self._sizes = np.zeros(len(hashes), np.uint32)

    def look_up(self, hashes_W: Array) -> tuple[Array, Array]:
        """Which of the windows have a hash that is known here, and its number."""
        chosen = np.flatnonzero(contained(hashes_W, self._hashes))
        return chosen, np.searchsorted(self._hashes, hashes_W[chosen])

    def add(self, candidate: _Candidate, chosen: Array) -> None:
        new = np.flatnonzero(chosen & (self._starts[candidate.groups] < 0))[::-1]  # the first of equal ones comes last
        self._starts[candidate.groups[new]] = candidate.starts[new]
        self._sizes[candidate.groups[new]] = candidate.ends[new] - candidate.starts[new]

    def owner(self, candidate: _Candidate, hit: Array) -> int:
        """The document that has the first hit."""
        return int(self._corpus.documents_at(self._starts[candidate.groups[np.argmax(hit)]]))

    def hold(self, candidate: _Candidate) -> Array:
        """bool [W]: whether an earlier document has the tokens of the window, compared byte by byte.

        A window is compared with the one before it in the document that has its hash, and the first of these with the
        earlier document. So are windows that follow one another compared with windows that do, however few different
        words there are: all windows of "a a a a" with the one a token before.

        Windows of different tokens with one hash can only hide a repeat: 1 in 100,000 corpora of 100 MB has a pair.
        """
        known = np.flatnonzero(self._starts[candidate.groups] >= 0)
        groups, places = candidate.groups[known], candidate.places[known]
        starts, ends = candidate.starts[known], candidate.ends[known]
        order, first = _by_group(groups)
        links, sizes = self._starts[groups], self._sizes[groups].astype(np.int64)
        again = order[~first]
        before = order[:-1][~first[1:]]
        links[again], sizes[again] = starts[before], ends[before] - starts[before]
        equal = same_bytes(self._corpus.data, places, starts, ends, links, sizes)
        other = np.flatnonzero(~equal)  # whitespace may differ
        steps = np.diff(links[other])
        parted = (np.diff(places[other]) != 1) | (steps <= 0) | (steps > _NEAR)
        for low, high in pairwise([0, *(np.flatnonzero(parted) + 1).tolist(), len(other)]):
            run = other[low:high]
            equal[run] = self._equal(starts[run], ends[run], links[run], sizes[run])
        held = np.zeros(len(candidate.groups), bool)
        held[known[order]] = _unbroken(equal[order], first)
        return held

    def _equal(self, starts: Array, ends: Array, owners: Array, sizes: Array) -> Array:
        """bool: whether windows that follow one another have the tokens of their owners. Compared all at once, because
        neighbours share all tokens but two, and by halves where they differ."""
        if not len(starts):
            return np.empty(0, bool)
        data = self._corpus.data
        mine, theirs = data[starts[0] : ends[-1]], data[owners[0] : owners[-1] + sizes[-1]]
        if same_tokens(mine, theirs):
            begins = find_tokens(theirs).starts_T[: len(owners)]
            if np.array_equal(begins, owners - owners[0]):
                return np.ones(len(starts), bool)
        if len(starts) == 1:
            return np.zeros(1, bool)
        halves = (slice(None, len(starts) // 2), slice(len(starts) // 2, None))
        return np.concatenate([self._equal(starts[h], ends[h], owners[h], sizes[h]) for h in halves])


def _by_group(groups: Array) -> tuple[Array, Array]:
    """The order by group and place, and whether each is the first of its group in that order."""
    order = np.argsort(groups, kind="stable")
    return order, np.diff(groups[order], prepend=-1) != 0


def _unbroken(equal: Array, first: Array) -> Array:
    """bool: whether all are equal from the first of a group on."""
    different = np.cumsum(~equal)
    before = np.where(first, different - ~equal, 0)
    return different == np.maximum.accumulate(before)


def _covered(places: Array, length: int, count: int) -> Array:
    """bool [T]: which of `count` tokens lie in a window of `length` tokens from one of the places on."""
    edges = np.zeros(count + 1, np.int64)
    edges[places] += 1
    edges[places + length] -= 1
    return np.cumsum(edges[:-1]) > 0


def _found(corpus: _Corpus, candidate: _Candidate, covered: Array, owner: int) -> Repeats:
    begin, end = corpus.offsets[candidate.document : candidate.document + 2]
    characters = np.cumsum(corpus.data[begin:end] & 0xC0 != 0x80)  # begun up to and with a byte
    limits = np.array(runs(covered))
    starts = characters[candidate.tokens.starts_T[limits[:, 0]] - begin] - 1
    stops = characters[candidate.tokens.ends_T[limits[:, 1] - 1] - begin] - 1
    spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
    return Repeats(candidate.document, spans, int(covered.sum()), len(covered), owner)
