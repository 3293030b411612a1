"""Which texts a model reads, in which order, so that nothing is computed twice.

Continuations of one context are one text where each is a single token, and a text that is the beginning of another is
read with it. Texts that begin alike, such as questions after the same examples, or the answers to one question, are
read one after the other behind their common beginning, where a model's cache can forget what came after it
(`RewindableCache`).

Shape suffixes: S tokens of a text.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.rows import Row
from penstock.hooks.contracts import Generate, Likelihood

CHUNK = 128
"""Positions of a pass whose bits depend on the text alone: those of LAMBADA's passages fit, and of the examples before
a question of MMLU, 7 chunks are shared and at most one is read again."""


@dataclass(frozen=True, slots=True)
class Text:
    """`token_S` is what the model reads, once, for the rows with these keys. `scored` is the first position that any of
    them wants a prediction of."""

    token_S: NDArray[np.integer]
    keys: tuple[str, ...]
    scored: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one kind, which are computed and stored together. All begin with the tokens before the last of `ends`:
    the parts up to each of these positions are read once, one after the other."""

    texts: Sequence[Text]
    ends: tuple[int, ...] = ()

    @property
    def keys(self) -> list[str]:
        return [key for text in self.texts for key in text.keys]

    def without(self, known: Container[str]) -> Batch:
        """The batch for the rows that are not known alone. Texts stay as they are, so the bits do too."""
        left = ((text, tuple(key for key in text.keys if key not in known)) for text in self.texts)
        return Batch([Text(text.token_S, keys, text.scored) for text, keys in left if keys], self.ends)


def batches(
    rows: Mapping[str, Row], batch_size: int, pass_tokens: int | None, *, pads: bool = False
) -> Iterator[Batch]:
    """Batches of at most `batch_size` texts, longest first. A beginning is shared where that saves more than a pass for
    each of its texts costs, which is as much as reading `pass_tokens`; None: no beginnings are shared. If the model
    does not read prompts that are padded (`pads`), those of a batch have one length."""
    for kind, keys in _by_kind(rows, pads=pads).items():
        texts = [Text(rows[key].token_S, (key,)) for key in keys]
        if kind[0] != Likelihood.__name__:
            yield from _longest_first(texts, batch_size)
        elif pass_tokens is None:
            yield from _longest_first(_merged(rows, keys), batch_size)
        else:
            rank = {key: number for number, key in enumerate(keys)}
            yield from _sharing(_absorbed(_merged(rows, keys)), rank, batch_size, pass_tokens)


def invariant_batches(rows: Mapping[str, Row], batch_size: int, *, shares: bool) -> Iterator[Batch]:
    """Batches whose texts are read alone, in passes that depend on the text alone: if the model `shares` beginnings,
    chunks of `CHUNK` positions up to the first that is scored, and then the rest."""
    for kind, keys in _by_kind(rows, pads=True).items():
        if kind[0] != Likelihood.__name__:
            yield from _longest_first([Text(rows[key].token_S, (key,)) for key in keys], batch_size)
            continue
        by_beginning: dict[bytes, list[Text]] = defaultdict(list)
        for text in sorted(_merged(rows, keys), key=_order):
            shared = text.scored // CHUNK * CHUNK if shares else 0
            by_beginning[_bytes(text.token_S[:shared])].append(text)
        for beginning, texts in by_beginning.items():
            ends = tuple(range(CHUNK, len(beginning) // _WIDTH + 1, CHUNK))
            yield from _longest_first(texts, batch_size, ends)


def _by_kind(rows: Mapping[str, Row], *, pads: bool) -> dict[tuple[Any, ...], list[str]]:
    """Keys of rows that may be computed together: of the same kind, and for prompts, continued alike."""

    def kind(row: Row) -> tuple[Any, ...]:
        length = len(row.token_S) if row.kind is Generate and not pads else 0
        return (row.kind.__name__, row.new_tokens, length, row.stop, row.temperature, row.seed)

    found: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for key, row in rows.items():
        found[kind(row)].append(key)
    return dict(sorted(found.items()))


def _longest_first(texts: Iterable[Text], batch_size: int, ends: tuple[int, ...] = ()) -> Iterator[Batch]:
    ordered = iter(sorted(texts, key=lambda text: -len(text.token_S)))
    while batch := list(itertools.islice(ordered, batch_size)):
        yield Batch(batch, ends)


def _merged(rows: Mapping[str, Row], keys: Sequence[str]) -> list[Text]:
    """One text for all rows that read the same and predict from the same position on, such as the letters that may
    answer one question."""
    same: dict[tuple[bytes, int], list[str]] = defaultdict(list)
    for key in keys:
        same[_bytes(rows[key].token_S[:-1]), rows[key].scored].append(key)
    return [Text(rows[these[0]].token_S[:-1], tuple(these), scored) for (_, scored), these in same.items()]


def _absorbed(texts: Sequence[Text]) -> list[Text]:
    """In the order of their tokens, without those that are the beginning of another, which answers their rows."""
    kept: list[Text] = []
    for text in sorted(texts, key=_order, reverse=True):
        longer = kept[-1] if kept else None
        if longer is not None and _common(text.token_S, longer.token_S) == len(text.token_S):
            kept[-1] = Text(longer.token_S, longer.keys + text.keys, min(longer.scored, text.scored))
        else:
            kept.append(text)
    return kept[::-1]


def _sharing(texts: Sequence[Text], rank: Mapping[str, int], batch_size: int, pass_tokens: int) -> Iterator[Batch]:
    """Depth first: a beginning, the texts that share nothing beyond it, then the longer beginnings. Texts of one length
    stay in the order of their first rows, `rank`."""
    waiting: list[tuple[Sequence[Text], tuple[int, ...]]] = [(texts, ())]
    while waiting:
        group, ends = waiting.pop()
        alone, longer = _beginnings(group, ends[-1] if ends else 0, pass_tokens)
        yield from _longest_first(sorted(alone, key=lambda text: rank[text.keys[0]]), batch_size, ends)
        waiting += [(part, (*ends, end)) for part, end in reversed(longer)]


def _beginnings(
    texts: Sequence[Text], read: int, pass_tokens: int
) -> tuple[list[Text], list[tuple[Sequence[Text], int]]]:
    """Of texts whose first `read` tokens are read: those that share no more, and the groups that share more, with where
    that ends. It ends before the first position that is scored."""
    alone: list[Text] = []
    longer: list[tuple[Sequence[Text], int]] = []
    waiting = [texts] if len(texts) else []
    while waiting:
        part = waiting.pop()
        common = _common(part[0].token_S, part[-1].token_S)  # in the order of tokens, all between share it too
        end = min(common, *(text.scored for text in part))
        if len(part) == 1:
            alone += part
        elif (len(part) - 1) * (end - read) >= len(part) * pass_tokens:
            longer.append((part, end))
        else:
            groups = itertools.groupby(part, key=lambda text: int(text.token_S[common]))
            waiting += [list(group) for _, group in groups][::-1]
    return alone, longer


def _common(one_S: NDArray[np.integer], other_S: NDArray[np.integer]) -> int:
    """How many tokens both begin with."""
    length = min(len(one_S), len(other_S))
    differs = np.flatnonzero(one_S[:length] != other_S[:length])
    return int(differs[0]) if len(differs) else length


_WIDTH = 8  # bytes of a token


def _bytes(token_S: NDArray[np.integer]) -> bytes:
    """Sorts as the tokens do."""
    return token_S.astype(f">u{_WIDTH}").tobytes()


def _order(text: Text) -> bytes:
    return _bytes(text.token_S)
