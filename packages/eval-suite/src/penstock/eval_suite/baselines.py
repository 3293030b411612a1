"""N-gram counts and compression on the same bytes: baselines that a trained model has to beat.

The n-gram models see the tokens that the language model was trained on and predict the same tokens, `heldout[1:]`,
each from the tokens before it. All predict and pay for end-of-text tokens, which have no bytes.

Shape suffixes: N tokens, V vocabulary, P distinct pairs.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.kneser_ney import KneserNey
from penstock.eval_suite.metrics import bits_per_byte

Floats = NDArray[np.float64]
Tokens = NDArray[np.integer]

# The smoothing is chosen on the last tenth of the training tokens, at most this many, which is plenty for two numbers;
# the counts then come from all of them.
_DEVELOPMENT_SHARE = 0.1
_DEVELOPMENT_TOKENS = 200_000
# Both weights lie strictly between 0 and 1: a grid finds the minimum of a smooth curve within 0.1 % of its value.
_GRID = np.concatenate([[1e-6, 1e-5, 1e-4, 1e-3, 5e-3, 0.01, 0.03], np.arange(0.05, 1.0, 0.05), [0.98]])


def unigram_bits_per_byte(
    train_tokens: Tokens, heldout_tokens: Tokens, vocabulary_size: int, byte_lengths: NDArray[np.integer]
) -> float:
    """Token frequencies, interpolated with the uniform distribution."""
    counted, development = _split(train_tokens)
    weight = _best_uniform_weight(_counts(counted, vocabulary_size), development)
    probability_V = _with_uniform(_counts(train_tokens, vocabulary_size), weight)
    return _bits_per_byte(probability_V[heldout_tokens[1:]], heldout_tokens, byte_lengths)


def bigram_bits_per_byte(
    train_tokens: Tokens, heldout_tokens: Tokens, vocabulary_size: int, byte_lengths: NDArray[np.integer]
) -> float:
    """Bigrams by interpolated absolute discounting (Chen and Goodman 1998, section 2.7):

    p(w | v) = max(c(v, w) - D, 0) / c(v) + D * types(v) / c(v) * lower(w), where lower(w) is the frequency of w, or,
    after Kneser and Ney, the number of different tokens that precede w, interpolated with the uniform distribution.
    D, the weight of the uniform distribution and the kind of lower are those that maximise the likelihood of the last
    tenth of the training tokens.
    """
    counted, development = _split(train_tokens)
    pairs = _Pairs.count(counted, vocabulary_size)
    terms = pairs.terms(development)
    candidates: list[tuple[float, bool, float, float]] = []
    for kneser_ney in (True, False):
        weight = _best_uniform_weight(pairs.lower_counts(kneser_ney), development)
        lower_V = _with_uniform(pairs.lower_counts(kneser_ney), weight)
        losses = [-np.log(terms.probability(discount, lower_V)).sum() for discount in _GRID]
        candidates.append((float(min(losses)), kneser_ney, weight, float(_GRID[int(np.argmin(losses))])))
    _, kneser_ney, weight, discount = min(candidates)

    pairs = _Pairs.count(train_tokens, vocabulary_size)
    lower_V = _with_uniform(pairs.lower_counts(kneser_ney), weight)
    return _bits_per_byte(pairs.terms(heldout_tokens).probability(discount, lower_V), heldout_tokens, byte_lengths)


def five_gram_bits_per_byte(
    train_tokens: Tokens, heldout_tokens: Tokens, vocabulary_size: int, byte_lengths: NDArray[np.integer]
) -> float:
    """5-grams by interpolated modified Kneser-Ney smoothing, the strongest of plain n-gram models."""
    probability_N = KneserNey(train_tokens, vocabulary_size).probability(heldout_tokens)
    return _bits_per_byte(probability_N, heldout_tokens, byte_lengths)


def xz_bits_per_byte(data: bytes) -> float:
    """`xz -9` on the text itself. It reads no training text, so short texts flatter the model; its window is 64 MiB."""
    if not data:
        raise ValueError("xz_bits_per_byte needs at least one byte")
    return 8 * len(lzma.compress(data, preset=9)) / len(data)


@dataclass(frozen=True, slots=True)
class _Terms:
    """For each predicted token: the count of its pair, and the count and distinct followers of the token before."""

    pair_N: Floats
    context_N: Floats
    types_N: Floats
    token_N: Tokens

    def probability(self, discount: float, lower_V: Floats) -> Floats:
        lower_N = lower_V[self.token_N]
        seen_N = np.maximum(self.context_N, 1.0)
        known_N = np.maximum(self.pair_N - discount, 0.0) / seen_N + discount * self.types_N / seen_N * lower_N
        return np.where(self.context_N > 0, known_N, lower_N)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Counts of neighbouring tokens: distinct pairs `v * V + w` in order, how often each occurs, and their sums."""

    code_P: NDArray[np.integer]
    count_P: NDArray[np.int64]
    follow_V: NDArray[np.int64]  # pairs that start with a token
    types_V: NDArray[np.int64]  # distinct pairs that start with it
    precede_V: NDArray[np.int64]  # distinct pairs that end with it
    token_V: NDArray[np.int64]  # how often it occurs

    @classmethod
    def count(cls, tokens: Tokens, vocabulary_size: int) -> _Pairs:
        code_P, count_P = np.unique(_codes(tokens, vocabulary_size), return_counts=True)
        first_P, second_P = np.divmod(code_P.astype(np.int64), vocabulary_size)
        return cls(
            code_P,
            count_P,
            follow_V=np.bincount(np.asarray(tokens)[:-1], minlength=vocabulary_size),
            types_V=np.bincount(first_P, minlength=vocabulary_size),
            precede_V=np.bincount(second_P, minlength=vocabulary_size),
            token_V=np.bincount(tokens, minlength=vocabulary_size),
        )

    def lower_counts(self, kneser_ney: bool) -> NDArray[np.int64]:
        return self.precede_V if kneser_ney else self.token_V

    def terms(self, tokens: Tokens) -> _Terms:
        code_N = _codes(tokens, len(self.follow_V))
        at_N = np.minimum(np.searchsorted(self.code_P, code_N), len(self.code_P) - 1)
        pair_N = np.where(self.code_P[at_N] == code_N, self.count_P[at_N], 0)
        before_N = tokens[:-1]
        return _Terms(
            pair_N.astype(np.float64),
            self.follow_V[before_N].astype(np.float64),
            self.types_V[before_N].astype(np.float64),
            tokens[1:],
        )


def _codes(tokens: Tokens, vocabulary_size: int) -> NDArray[np.integer]:
    """One number per pair; 32 bits if they fit, which halves the sorting time."""
    width = np.uint32 if vocabulary_size <= 2**16 else np.int64
    return tokens[:-1].astype(width) * width(vocabulary_size) + tokens[1:].astype(width)


def _counts(tokens: Tokens, vocabulary_size: int) -> NDArray[np.int64]:
    return np.bincount(tokens, minlength=vocabulary_size)


def _with_uniform(counts_V: NDArray[np.int64], weight: float) -> Floats:
    return (1 - weight) * counts_V / counts_V.sum() + weight / len(counts_V)


def _best_uniform_weight(counts_V: NDArray[np.int64], development: Tokens) -> float:
    """The weight of the uniform distribution that makes the development tokens most likely."""
    wanted_V = _counts(development[1:], len(counts_V))
    present = wanted_V > 0
    losses = [-(wanted_V[present] * np.log(_with_uniform(counts_V, weight)[present])).sum() for weight in _GRID]
    return float(_GRID[int(np.argmin(losses))])


def _split(train_tokens: Tokens) -> tuple[Tokens, Tokens]:
    cut = len(train_tokens) - min(int(len(train_tokens) * _DEVELOPMENT_SHARE), _DEVELOPMENT_TOKENS)
    if cut < 2 or len(train_tokens) - cut < 2:
        raise ValueError(f"the n-gram baselines need at least 20 training tokens, not {len(train_tokens)}")
    return train_tokens[:cut], train_tokens[cut:]


def _bits_per_byte(probability_N: Floats, heldout_tokens: Tokens, byte_lengths: NDArray[np.integer]) -> float:
    return bits_per_byte(-np.log(probability_N), int(byte_lengths[heldout_tokens[1:]].sum()))
