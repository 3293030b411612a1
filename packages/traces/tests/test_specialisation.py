"""Preference and co-activation against sums written out, and nulls against routers that do not look at the domain."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from penstock.traces.specialisation import (
    NUMBERS_AT_ONCE,
    closest_pairs,
    coactivation,
    coactivation_lift,
    dependence_lift,
    independent_information,
    mutual_information,
    preference,
    specialisation,
    wilson_interval,
    word_information,
)

tables = st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=1, max_size=4).map(np.array)


def choices(tokens: int, experts: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((tokens, experts)).argsort(axis=1)[:, :k]


@given(st.integers(0, 30), st.integers(2, 6), st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_coactivation_counts_the_tokens_that_chose_both(tokens, experts, seed):
    chosen = choices(tokens, experts, 2, seed)
    expected = np.zeros((experts, experts), dtype=int)
    for row in chosen.tolist():
        for first, second in itertools.product(row, row):
            expected[first, second] += 1
    assert (coactivation(chosen, experts) == expected).all()


def test_experts_that_never_meet_have_no_lift_and_those_that_always_do_the_most():
    pairs = np.array([[0, 1]] * 50 + [[2, 3]] * 50)
    lift = coactivation_lift(coactivation(pairs, 5))
    assert lift[0, 2] == 0
    assert lift[0, 1] == pytest.approx(3)  # of the three others that an expert could meet it meets but one
    assert np.isnan(np.diag(lift)).all()
    assert np.isnan(lift[4]).all()


def test_independent_experts_have_a_lift_of_one():
    lift = coactivation_lift(coactivation(choices(40_000, 6, 2), 6))
    assert np.nanmax(np.abs(lift - 1)) < 0.05


def test_coactivation_of_a_long_text_is_that_of_its_parts():
    chosen = choices(NUMBERS_AT_ONCE // 64 + 100, 64, 2)
    parts = [coactivation(chosen[:1000], 64), coactivation(chosen[1000:], 64)]
    assert (coactivation(chosen, 64) == parts[0] + parts[1]).all()


def test_coactivation_of_many_experts_takes_no_more_memory_than_that_of_few():
    chosen = np.stack([np.arange(2**15) % 512, np.arange(2**15) % 511], axis=1)
    tracemalloc.start()
    try:
        coactivation(chosen, 512)
        assert tracemalloc.get_traced_memory()[1] < 96 * 2**20  # all of them at once are 128
    finally:
        tracemalloc.stop()


def test_the_closest_pair_is_the_one_that_chance_explains_least():
    often = np.concatenate([choices(3000, 8, 2), np.array([[5, 2]] * 600)])
    both = coactivation(often, 8)
    first, *others = closest_pairs(both)
    assert first["experts"] == [2, 5]
    assert first["tokens"] == both[2, 5]
    assert first["lift"] == pytest.approx(coactivation_lift(both)[2, 5])
    assert all(other["lift"] > 1 for other in others)
    assert len({tuple(pair["experts"]) for pair in [first, *others]}) == 1 + len(others) <= 5


def test_experts_that_are_chosen_alone_make_no_pairs():
    assert closest_pairs(coactivation(choices(100, 4, 1), 4)) == []
    assert np.isnan(coactivation_lift(coactivation(choices(100, 4, 1), 4))).all()


def test_a_pair_that_always_occurs_together_has_the_lift_of_its_rarity():
    lift = dependence_lift(np.array([[2, 0, 0], [0, 6, 0], [0, 0, 0]]))
    assert (lift[0, 0], lift[1, 1], lift[0, 1]) == pytest.approx((4, 4 / 3, 0))
    assert np.isnan(lift[2]).all()
    assert dependence_lift(np.outer([1, 2], [3, 4])) == pytest.approx(np.ones((2, 2)))


@given(tables)
@settings(deadline=None, max_examples=60)
def test_information_is_the_sum_over_cells(table):
    total, expected = table.sum(), 0.0
    for row, column in itertools.product(range(table.shape[0]), range(table.shape[1])):
        if table[row, column]:
            independent = table[row].sum() * table[:, column].sum() / total
            expected += table[row, column] / total * math.log2(table[row, column] / independent)
    assert mutual_information(table) == pytest.approx(expected, abs=1e-12)


def test_experts_of_one_domain_each_tell_it():
    assert mutual_information(np.eye(4, dtype=int) * 7) == pytest.approx(2)


def test_a_router_that_ignores_the_domain_is_above_the_null_one_time_in_twenty():
    generator = np.random.default_rng(0)
    tables = [np.stack([generator.multinomial(2_000, [0.25] * 4) for _ in range(3)]) for _ in range(600)]
    above = [mutual_information(table) > independent_information(table) for table in tables]
    assert 0.02 < np.mean(above) < 0.08


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (500, 1000)])
def test_the_interval_is_scipys(successes, trials):
    low, high = wilson_interval(np.array([successes]), np.array([trials]))
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_without_trials_anything_is_possible():
    low, high = wilson_interval(np.array([0]), np.array([0]))
    assert (low[0], high[0]) == (0, 1)


def test_a_share_is_of_the_tokens_and_uniform_is_k_of_the_experts():
    found = preference(np.array([[100, 100, 0, 0], [50, 50, 50, 50]]), k=2)
    assert found.uniform == 0.5
    assert found.share_ME.tolist() == [[1, 1, 0, 0], [0.5] * 4]
    assert found.lift_ME[0].tolist() == [2, 2, 0, 0]
    assert found.above_ME.tolist() == [[True, True, False, False], [False] * 4]
    assert found.below_ME.tolist() == [[False, False, True, True], [False] * 4]


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        ([[100, 100], [100, 100]], "even load, no specialisation"),
        ([[200, 0], [0, 200]], "even load, depends on the domain (perhaps only by its words)"),
        ([[190, 10], [190, 10]], "uneven load, no specialisation"),
        ([[400, 0], [0, 100]], "uneven load, depends on the domain (perhaps only by its words)"),
        ([[100, 100]], "even load, specialisation unknown (one domain)"),
        ([[100, 100], [0, 0]], "even load, specialisation unknown (one domain)"),
    ],
)
def test_even_load_and_specialisation_are_told_apart(table, verdict):
    assert specialisation(np.array(table))["verdict"] == verdict


def routed(route: Callable[[int, int, np.random.Generator], int], seed: int = 0) -> tuple[np.ndarray, float]:
    """The counts [M, E] of 8 experts over two domains, which share the 5 most frequent of 200 ids each, and the
    bound of their words; `route` gives the expert of an id in a domain."""
    generator = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, 201)
    domain_N = np.repeat([0, 1], 4000)
    drawn_N = generator.choice(200, size=8000, p=frequency / frequency.sum())
    token_N = np.where(drawn_N < 5, drawn_N, drawn_N + 200 * domain_N)
    experts = {
        (int(domain), int(token)): route(int(domain), int(token), generator)
        for domain, token in sorted(set(zip(domain_N.tolist(), token_N.tolist(), strict=True)))
    }
    expert_N = np.array([experts[pair] for pair in zip(domain_N.tolist(), token_N.tolist(), strict=True)])
    count_ME = np.bincount(domain_N * 8 + expert_N, minlength=16).reshape(2, 8)
    return count_ME, word_information(domain_N, token_N, expert_N[:, None], 8)


def test_a_random_router_depends_on_the_domain_by_its_words_and_is_not_called_specialised():
    verdicts = set()
    for seed in range(10):
        expert_V = np.random.default_rng(100 + seed).integers(0, 8, 400)
        count_ME, words = routed(lambda domain, token, generator, own=expert_V: int(own[token]), seed)
        assert specialisation(count_ME)["significant"]
        verdicts.add(specialisation(count_ME, words)["verdict"].split(", ")[1])
    assert verdicts <= {"no specialisation beyond the domain's words", "no specialisation"}


def test_experts_of_a_domain_are_specialised_whether_by_words_or_by_context():
    def by_words(domain: int, token: int, generator: np.random.Generator) -> int:
        return int(generator.integers(0, 8)) if token < 5 else int(generator.integers(0, 4)) + 4 * domain

    def by_context(domain: int, token: int, generator: np.random.Generator) -> int:
        return int(generator.integers(0, 4)) + 4 * domain

    for route in (by_words, by_context):
        assert specialisation(*routed(route))["verdict"].endswith("load, specialised")


def test_a_difference_too_small_to_use_is_no_specialisation_however_significant():
    found = specialisation(np.array([[1_010_000, 990_000], [990_000, 1_010_000]]))
    assert found["significant"]
    assert found["verdict"] == "even load, no specialisation"
