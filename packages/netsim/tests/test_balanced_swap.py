"""Balanced swap: what every plan keeps, and that it is never worse than what it started from."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hooks.problems import ProblemError
from penstock.netsim.balanced_swap import (
    BalancedSwap,
    numbered_like,
    spread_over_nodes,
    weights_by_age,
    without_duplicates,
)
from penstock.netsim.eplb import Eplb
from penstock.netsim.plan import Plan, held_out
from penstock.netsim.swaps import norm_of_loads, swap_pairs


@st.composite
def loads(draw):
    """Windows of a layer, GPUs and redundant slots; some windows and experts may be empty."""
    experts, gpus, windows = draw(st.integers(1, 24)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    load_WE = rng.integers(0, 40, (windows, experts)) * rng.integers(0, 2, (windows, experts))
    return load_WE, gpus, draw(st.integers(0, 2 * gpus))


@settings(max_examples=60, deadline=None)
@given(loads())
def test_every_plan_holds_every_expert_and_no_gpu_two_copies_of_one(case):
    load_WE, gpus, redundant = case
    plan = BalancedSwap(redundant, gpus_per_node=2).plan(load_WE, gpus)
    assert plan.copies_E.min() >= 1
    assert plan.duplicates == 0


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_duplicates_go_and_the_copies_stay(gpus, room, seed):
    rng = np.random.default_rng(seed)
    experts = int(rng.integers(room, gpus * room + 1))
    copies_E = np.ones(experts, dtype=np.int64)
    while copies_E.sum() < gpus * room:
        copies_E[rng.choice(np.flatnonzero(copies_E < gpus))] += 1
    plan = Plan(rng.permutation(np.repeat(np.arange(experts), copies_E)), experts, gpus)
    clean = without_duplicates(plan)
    assert clean.duplicates == 0
    assert clean.copies_E.tolist() == plan.copies_E.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_swaps_never_worsen_the_norm_and_keep_the_copies(seed):
    rng = np.random.default_rng(seed)
    load_WE = rng.random((3, 16)) / 2
    plan = Plan(rng.permutation(np.arange(16)), 16, 4)
    weight_W = np.array([0.5, 0.3, 0.2])
    better = swap_pairs(plan, load_WE, weight_W, 50)
    before, after = (norm_of_loads(each.gpu_loads(load_WE), weight_W) for each in (plan, better))
    assert after <= before + 1e-12
    assert better.copies_E.tolist() == plan.copies_E.tolist()
    assert swap_pairs(plan, load_WE, weight_W, 0).expert_R.tolist() == plan.expert_R.tolist()
    assert swap_pairs(plan, load_WE, weight_W, 3).moved_slots(plan) <= 6


def test_new_windows_count_for_more_where_loads_drift_and_all_alike_where_they_do_not():
    rng = np.random.default_rng(5)
    still_WE = np.tile(rng.random(32), (8, 1))
    walk_WE = np.abs(np.cumsum(rng.normal(0, 1, (8, 32)), axis=0) + 5)
    assert weights_by_age(still_WE) == pytest.approx(np.full(8, 1 / 8))
    drifting_W = weights_by_age(walk_WE)
    assert drifting_W.sum() == pytest.approx(1)
    assert (np.diff(drifting_W) > 0).all()
    assert weights_by_age(np.ones((1, 4))).tolist() == [1.0]


def test_on_small_cases_it_comes_within_two_percent_of_the_best_of_all_placements():
    """Brute force over the ways to split 8 experts into 2 GPUs of 4, or 3 of 2."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        load_E = rng.lognormal(0, 0.5, 8)
        total = load_E.sum()
        best = min(
            max(load_E[list(half)].sum(), total - load_E[list(half)].sum())
            for half in itertools.combinations(range(8), 4)
        )
        gpu_E = BalancedSwap().place(load_E, 2)
        assert np.bincount(gpu_E, weights=load_E).max() <= best * 1.02
        assert np.bincount(gpu_E, weights=load_E).max() >= best * (1 - 1e-12)


def test_four_hot_experts_get_a_gpu_a_copy():
    """What EPLB does with them, six copies each on 16 GPUs, leaves two hot copies on half of the GPUs."""
    load_E = np.ones(60)
    load_E[[3, 17, 31, 59]] = 130.0
    assert Eplb(redundant=20).plan(load_E, 16).imbalance(load_E) > 1.2
    assert BalancedSwap(redundant=20).plan(load_E, 16).imbalance(load_E) < 1.01


def test_exchanging_gpus_between_nodes_keeps_loads_and_brings_tokens_home():
    rng = np.random.default_rng(3)
    load_E = rng.lognormal(0, 1, 64)
    plan = Eplb(redundant=32, gpus_per_node=4).plan(load_E, 16)
    spread = spread_over_nodes(plan, load_E, 4)
    assert sorted(spread.gpu_loads(load_E)) == pytest.approx(sorted(plan.gpu_loads(load_E)))
    assert spread.off_node_share(load_E, 4) < plan.off_node_share(load_E, 4) - 0.05
    assert (
        spread.off_node_share(load_E, 4) >= 1 - (load_E * np.minimum(plan.copies_E, 4) / 4).sum() / load_E.sum() - 1e-9
    )


@given(st.integers(0, 2**32 - 1))
def test_numbering_alike_undoes_any_renumbering_of_gpus(seed):
    rng = np.random.default_rng(seed)
    plan = Plan(rng.permutation(24), 24, 6)
    other = Plan(plan.expert_R.reshape(6, 4)[rng.permutation(6)].ravel(), 24, 6)
    assert numbered_like(other, plan).expert_R.tolist() == plan.expert_R.tolist()


def test_no_more_slots_move_than_are_allowed():
    rng = np.random.default_rng(4)
    load_WE = rng.multinomial(20_000, rng.dirichlet(np.ones(32)), size=9)
    for most in (0.0, 0.1, 0.25):
        result = held_out(BalancedSwap(8, most_moved=most), load_WE, 8, history=4, keep=True)
        assert result.moved_share <= most
    free = held_out(BalancedSwap(8), load_WE, 8, history=4, keep=True)
    assert free.moved_share > 0.25


def test_the_next_window_is_balanced_better_than_by_eplb():
    """A tenth of the benchmark: 64 experts whose popularity drifts, 72 slots, ten seeds."""
    excess = {"eplb": 0.0, "balanced-swap": 0.0}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        base_E, drift_E, load_WE = rng.normal(0, 0.5, 64), np.zeros(64), []
        for _ in range(12):
            drift_E = 0.9 * drift_E + np.sqrt(1 - 0.81) * rng.normal(0, 0.1, 64)
            share_E = np.exp(base_E + drift_E)
            load_WE.append(rng.multinomial(200_000, share_E / share_E.sum()))
        excess["eplb"] += held_out(Eplb(8), np.array(load_WE), 12).excess
        excess["balanced-swap"] += held_out(BalancedSwap(8), np.array(load_WE), 12).excess
    assert excess["balanced-swap"] < 0.8 * excess["eplb"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BalancedSwap().place(np.ones(12), 5), "use 1, 2, 3, 4, 6, 12 GPUs"),
        (lambda: BalancedSwap().plan(np.ones(12), 0), "use at least one"),
        (lambda: BalancedSwap().plan(np.ones(12), 4, previous=Plan(np.arange(8), 8, 4)), "8 experts on 4 GPUs"),
        (lambda: BalancedSwap().plan(np.full(12, np.nan), 4), "not finite counts"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ProblemError, match=message):
        make()


@pytest.mark.parametrize("settings", [{"redundant": -1}, {"gpus_per_node": 0}, {"most_moved": 1.5}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="BalancedSwap"):
        BalancedSwap(**settings)
