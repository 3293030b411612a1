"""The n-gram models against a dictionary implementation, and against what they must beat."""

import lzma
import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.eval_suite import baselines
from penstock.eval_suite.baselines import bigram_bits_per_byte, unigram_bits_per_byte, xz_bits_per_byte


def markov_tokens(count: int, vocabulary_size: int = 30, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    next_VV = rng.dirichlet(np.full(vocabulary_size, 0.1), size=vocabulary_size).cumsum(axis=1)
    tokens = [0]
    for draw in rng.random(count - 1):
        tokens.append(min(int(np.searchsorted(next_VV[tokens[-1]], draw)), vocabulary_size - 1))
    return np.array(tokens)


def dumb_bigram_bits(train, heldout, vocabulary_size: int, byte_lengths) -> float:
    """Interpolated absolute discounting with dictionaries; everything fitted by trying the same grid."""

    def statistics(tokens):
        followers, preceders = defaultdict(Counter), defaultdict(set)
        for before, after in pairwise(tokens):
            followers[before][after] += 1
            preceders[after].add(before)
        return followers, ({token: len(before) for token, before in preceders.items()}, Counter(tokens))

    def lower(token, counts, weight):
        return (1 - weight) * counts.get(token, 0) / sum(counts.values()) + weight / vocabulary_size

    def bits(tokens, followers, lower_counts, discount, weight):
        total = 0.0
        for before, after in pairwise(tokens):
            probability = lower(after, lower_counts, weight)
            if before in followers:
                counts = followers[before]
                known = sum(counts.values())
                probability = max(counts[after] - discount, 0) / known + discount * len(counts) / known * probability
            total -= math.log2(probability)
        return total

    train, heldout = train.tolist(), heldout.tolist()
    cut = len(train) - len(train) // 10
    development, grid = train[cut:], baselines._GRID.tolist()
    followers, lowers = statistics(train[:cut])
    tried = []
    for kind, counts in enumerate(lowers):
        losses = {w: -sum(math.log(lower(token, counts, w)) for token in development[1:]) for w in grid}
        weight = min(losses, key=losses.__getitem__)
        tried += [(bits(development, followers, counts, d, weight), kind, d, weight) for d in grid]
    _, kind, discount, weight = min(tried)
    followers, lowers = statistics(train)
    return bits(heldout, followers, lowers[kind], discount, weight) / sum(byte_lengths[t] for t in heldout[1:])


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(60, 400), st.integers(2, 40), st.sampled_from([np.int64, np.uint16]))
def test_bigram_equals_dictionaries(seed, count, vocabulary_size, dtype):
    rng = np.random.default_rng(seed)
    tokens = (rng.integers(0, vocabulary_size, count) * rng.integers(0, 2, count)).astype(dtype)
    train, heldout = tokens[: count // 2 + 20], tokens[count // 2 + 20 :]
    byte_lengths = rng.integers(1, 9, vocabulary_size)
    expected = dumb_bigram_bits(train, heldout, vocabulary_size, byte_lengths)
    assert bigram_bits_per_byte(train, heldout, vocabulary_size, byte_lengths) == pytest.approx(expected)


def test_probabilities_of_all_continuations_sum_to_one():
    vocabulary_size = 30
    pairs = baselines._Pairs.count(markov_tokens(500), vocabulary_size)
    lower_V = baselines._with_uniform(pairs.precede_V, 0.1)
    for before in range(vocabulary_size):
        after = [
            pairs.terms(np.array([before, token])).probability(0.7, lower_V)[0] for token in range(vocabulary_size)
        ]
        assert sum(after) == pytest.approx(1.0)


def test_unigram_reaches_the_entropy_of_its_source():
    rng = np.random.default_rng(0)
    share_V = rng.dirichlet(np.ones(50))
    tokens = rng.choice(50, 60_000, p=share_V)
    entropy = -(share_V * np.log2(share_V)).sum()
    assert unigram_bits_per_byte(tokens[:50_000], tokens[50_000:], 50, np.full(50, 2)) == pytest.approx(
        entropy / 2, rel=0.02
    )


def test_bigram_beats_unigram_where_tokens_depend_on_the_one_before():
    tokens = markov_tokens(20_000)
    arguments = (tokens[:18_000], tokens[18_000:], 30, np.ones(30, dtype=int))
    assert bigram_bits_per_byte(*arguments) < 0.7 * unigram_bits_per_byte(*arguments)


def test_bigram_loses_little_where_they_do_not():
    tokens = np.random.default_rng(0).choice(200, 20_000, p=np.random.default_rng(1).dirichlet(np.ones(200)))
    arguments = (tokens[:18_000], tokens[18_000:], 200, np.ones(200, dtype=int))
    assert bigram_bits_per_byte(*arguments) < 1.03 * unigram_bits_per_byte(*arguments)


def test_tokens_never_seen_in_training_cost_a_finite_number_of_bits():
    train, heldout = np.zeros(100, dtype=np.int64), np.array([0, 5, 6, 0])
    for baseline in (unigram_bits_per_byte, bigram_bits_per_byte):
        assert 1 < baseline(train, heldout, 10, np.ones(10, dtype=int)) < 100


def test_end_of_text_is_paid_for_and_has_no_bytes():
    train = np.array([1, 2, 3, 0] * 50)
    free, paid = np.array([1, 1, 1, 1]), np.array([0, 1, 1, 1])
    heldout = train[:41]
    ratio = unigram_bits_per_byte(train, heldout, 4, paid) / unigram_bits_per_byte(train, heldout, 4, free)
    assert ratio == pytest.approx(40 / 30)


def test_too_few_training_tokens_are_refused():
    with pytest.raises(ValueError, match="at least 20"):
        bigram_bits_per_byte(np.arange(10), np.arange(10), 10, np.ones(10, dtype=int))


def test_xz_is_the_size_of_the_file():
    data = b"the quick brown fox " * 100
    assert xz_bits_per_byte(data) == 8 * len(lzma.compress(data, preset=9)) / 2000
    with pytest.raises(ValueError, match="one byte"):
        xz_bits_per_byte(b"")
