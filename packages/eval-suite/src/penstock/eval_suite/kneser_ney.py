"""N-gram models by interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998, section 3).

The probability of a token w after a context h of n - 1 tokens is

    p(w | h) = max(c(h w) - D(c(h w)), 0) / c(h) + g(h) p(w | h'),    g(h) = sum over w of D(c(h w)) / c(h)

where h' is h without its first token, and c counts n-grams of the highest order by how often they occur, those of lower
orders by how many different tokens stand before them. D is one of three discounts of the order, for counts of 1, 2, and
3 or more, from how many n-grams are counted 1 to 4 times. Below single tokens lies the uniform distribution. A context
that was never seen takes the probability of the shorter one.

N-grams are numbered: the number of one is found by that of its first n - 1 tokens and its last token, so each order is
a sorted array of such pairs.

Shape suffixes: N tokens, G different n-grams, C different contexts, which are the n-grams of one order less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Tokens = NDArray[np.integer]

ORDER = 5


class KneserNey:
    """An n-gram model of a stream of tokens.

    Raises ValueError for an order below 1, fewer tokens than that, and ids that are not in the vocabulary.
    """

    def __init__(self, tokens: Tokens, vocabulary_size: int, order: int = ORDER) -> None:
        token_N = np.asarray(tokens)
        if order < 1 or len(token_N) < order:
            raise ValueError(f"{len(token_N)} tokens, for n-grams of {order}, at least 1")
        if token_N.min() < 0 or token_N.max() >= vocabulary_size:
            raise ValueError(f"the stream has ids outside 0..{vocabulary_size - 1}")
        self._vocabulary_size = vocabulary_size
        self._orders: list[_Order] = []
        shorter: _Numbered | None = None
        for grams in _numbered(token_N, vocabulary_size, order):
            if shorter is not None:
                self._orders.append(_Order.counted(shorter, vocabulary_size, grams.suffix_G))
            shorter = grams
        assert shorter is not None
        self._orders.append(_Order.counted(shorter, vocabulary_size, shorter.gram_N))

    def probability(self, tokens: Tokens) -> Floats:
        """[N - 1]: of each of `tokens[1:]`, given the tokens before it. Raises ValueError as the constructor does."""
        token_N = np.asarray(tokens, np.int64)
        if len(token_N) and (token_N.min() < 0 or token_N.max() >= self._vocabulary_size):
            raise ValueError(f"the stream has ids outside 0..{self._vocabulary_size - 1}")
        probability_N = np.full(len(token_N), 1.0 / self._vocabulary_size)
        context_N = np.zeros(len(token_N), np.int64)  # of no tokens: the one context
        for order in self._orders:
            gram_N = order.numbers(context_N * self._vocabulary_size + token_N)
            probability_N = order.probability(gram_N, context_N, probability_N)
            context_N = np.concatenate([[-1], gram_N[:-1]])
        return probability_N[1:]


@dataclass(frozen=True, slots=True)
class _Numbered:
    """The n-grams of a stream: their codes in ascending order, and the number of the one that ends at each token, from
    the n-th on. Numbers are as narrow as the stream allows: they are most of the memory that counting takes."""

    code_G: Integers
    gram_N: Tokens
    suffix_G: Tokens
    """The number of each without its first token, among the n-grams of one order less."""
    contexts: int

    @classmethod
    def of(cls, token_N: Tokens, vocabulary_size: int, context_N: Tokens, contexts: int, before_N: Tokens) -> _Numbered:
        """Of the tokens that end an n-gram, the number of the context before each, and that of the n-gram without its
        first token."""
        code_N = context_N.astype(np.int64)
        code_N *= vocabulary_size
        code_N += token_N
        order_N = np.argsort(code_N)
        code_N = code_N[order_N]
        new_N = np.ones(len(code_N), bool)
        np.not_equal(code_N[1:], code_N[:-1], out=new_N[1:])
        number_N = np.cumsum(new_N, dtype=context_N.dtype)
        number_N -= number_N.dtype.type(1)
        gram_N = np.empty_like(number_N)
        gram_N[order_N] = number_N
        return cls(code_N[new_N], gram_N, before_N[order_N[new_N]], contexts)


def _numbered(token_N: Tokens, vocabulary_size: int, order: int) -> Iterator[_Numbered]:
    """The n-grams of each order, from single tokens on."""
    nothing_N = np.zeros(len(token_N), np.min_scalar_type(len(token_N)))
    grams = _Numbered.of(token_N, vocabulary_size, nothing_N, 1, nothing_N)
    yield grams
    for length in range(2, order + 1):
        contexts = len(grams.code_G)
        grams = _Numbered.of(token_N[length - 1 :], vocabulary_size, grams.gram_N[:-1], contexts, grams.gram_N[1:])
        yield grams


@dataclass(frozen=True, slots=True)
class _Order:
    """The n-grams of one length: their codes, what their counts give them, and what contexts keep for shorter ones."""

    code_G: Integers
    share_G: Floats
    """(c - D) / c(h)."""
    rest_C: Floats
    """g(h); 1 for a context that nothing follows."""

    @classmethod
    def counted(cls, grams: _Numbered, vocabulary_size: int, counted: Tokens) -> _Order:
        """`counted` has the number of an n-gram once for each time that it counts."""
        count_G = np.bincount(counted, minlength=len(grams.code_G))
        context_G = grams.code_G // vocabulary_size
        discount_G = _discounts(count_G)[np.minimum(count_G, 3)]
        total_C = np.bincount(context_G, count_G, grams.contexts)
        discounted_C = np.bincount(context_G, discount_G, grams.contexts)
        followed_C = np.maximum(total_C, 1)
        share_G = (count_G - discount_G) / followed_C[context_G]
        rest_C = np.where(total_C > 0, discounted_C / followed_C, 1.0)
        return cls(grams.code_G, share_G, rest_C)

    def numbers(self, code_N: Integers) -> Integers:
        """The number of each n-gram; -1 for one that was not seen. Behind a context of -1 all codes are negative."""
        at_N = np.minimum(np.searchsorted(self.code_G, code_N), len(self.code_G) - 1)
        return np.where(self.code_G[at_N] == code_N, at_N, -1)

    def probability(self, gram_N: Integers, context_N: Integers, shorter_N: Floats) -> Floats:
        share_N = np.where(gram_N < 0, 0.0, self.share_G[gram_N])
        return share_N + np.where(context_N < 0, 1.0, self.rest_C[context_N]) * shorter_N


def _discounts(count_G: Integers) -> Floats:
    """[4], for counts of 0, 1, 2, and 3 or more: D(k) = k - (k + 1) Y n(k + 1) / n(k), with Y = n(1) / (n(1) + 2 n(2)).
    Few or unusual counts can give a discount that is not between 0 and k: then it is k / 2, so that something is left
    for what was not seen."""
    n = np.bincount(np.minimum(count_G, 5), minlength=6).astype(float)
    once = n[1] / max(n[1] + 2 * n[2], 1.0)
    discounts = [k - (k + 1) * once * n[k + 1] / max(n[k], 1.0) for k in (1, 2, 3)]
    return np.array([0.0, *(each if 0 < each < k else k / 2 for k, each in enumerate(discounts, 1))])
