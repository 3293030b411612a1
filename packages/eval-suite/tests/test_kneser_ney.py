"""N-gram models against dictionaries."""

from __future__ import annotations

import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.eval_suite.kneser_ney import KneserNey


class Dictionaries:
    """Interpolated modified Kneser-Ney, as its equations are written."""

    def __init__(self, tokens, vocabulary_size, order):
        self.vocabulary_size, self.order = vocabulary_size, order
        grams = {n: [tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1)] for n in range(1, order + 1)}
        before = {n: defaultdict(set) for n in range(1, order)}
        for n in range(1, order):
            for gram in grams[n + 1]:
                before[n][gram[1:]].add(gram[0])
        self.counts = {n: {gram: len(before[n][gram]) for gram in set(grams[n])} for n in range(1, order)}
        self.counts[order] = dict(Counter(grams[order]))
        self.discounts = {n: self.discounts_of(list(self.counts[n].values())) for n in self.counts}

    @staticmethod
    def discounts_of(counts):
        n = [counts.count(k) for k in range(5)]
        y = n[1] / max(n[1] + 2 * n[2], 1)
        found = [0.0]
        for k in (1, 2, 3):
            discount = k - (k + 1) * y * n[k + 1] / max(n[k], 1)
            found.append(discount if 0 < discount < k else k / 2)
        return found

    def probability(self, context, token):
        if len(context) == self.order:
            context = context[1:]
        shorter = self.probability(context[1:], token) if context else 1 / self.vocabulary_size
        n = len(context) + 1
        following = {gram: count for gram, count in self.counts[n].items() if gram[:-1] == context}
        total = sum(following.values())
        if not total:
            return shorter
        discount = {gram: self.discounts[n][min(count, 3)] for gram, count in following.items()}
        gram = (*context, token)
        own = following.get(gram, 0) - discount.get(gram, 0)
        return own / total + sum(discount.values()) / total * shorter


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(5, 150), st.integers(2, 12), st.integers(1, 5))
def test_probabilities_equal_those_of_dictionaries(seed, count, vocabulary_size, order):
    rng = np.random.default_rng(seed)
    token_N = (rng.integers(0, vocabulary_size, count) * rng.integers(0, 2, count)).astype(np.uint16)
    text_N = np.concatenate([token_N[:30], rng.integers(0, vocabulary_size, 20).astype(np.uint16)])
    plain = Dictionaries(token_N.tolist(), vocabulary_size, order)
    text = text_N.tolist()
    expected = [plain.probability(tuple(text[max(at - order + 1, 0) : at]), text[at]) for at in range(1, len(text))]
    found = KneserNey(token_N, vocabulary_size, order).probability(text_N)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_probabilities_of_all_tokens_sum_to_one():
    rng = np.random.default_rng(0)
    model = KneserNey(rng.choice(20, 2000, p=rng.dirichlet(np.ones(20))), 25)
    for context in rng.integers(0, 25, (20, 4)):
        after = [model.probability(np.array([*context, token]))[-1] for token in range(25)]
        assert sum(after) == pytest.approx(1.0)
        assert min(after) > 0


def test_what_the_last_three_tokens_decide_is_learnt():
    """Each token is the sum of the three before it, or one time in five any other."""
    rng = np.random.default_rng(0)
    tokens = [0, 1, 2]
    for _ in range(60_000):
        tokens.append(int(rng.integers(16)) if rng.random() < 0.2 else sum(tokens[-3:]) % 16)
    token_N = np.array(tokens)
    nats = [-np.log(KneserNey(token_N[:59_000], 16, order).probability(token_N[59_000:])).mean() for order in (2, 4)]
    likeliest = 0.8 + 0.2 / 16
    entropy = -likeliest * np.log(likeliest) - 15 * 0.2 / 16 * np.log(0.2 / 16)
    assert nats[1] == pytest.approx(entropy, rel=0.1)
    assert nats[0] > 2 * nats[1]


def test_counting_holds_two_orders_at_most():
    """Where nearly every n-gram is another one, all orders at once would take 200 bytes a token."""
    token_N = np.random.default_rng(0).zipf(1.3, 200_000).clip(max=8000).astype(np.uint16)
    tracemalloc.start()
    try:
        KneserNey(token_N, 8001)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 140 * len(token_N)


@pytest.mark.parametrize(("tokens", "order"), [([1, 2], 3), ([1, 9, 1], 2), ([1, -1, 1], 2), ([1, 2], 0)])
def test_what_cannot_be_counted_is_refused(tokens, order):
    with pytest.raises(ValueError, match=r"tokens, for n-grams|ids outside"):
        KneserNey(np.array(tokens), 5, order)
