"""EPLB: the published example, and the laws of its two parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.hooks.problems import ProblemError
from penstock.netsim.eplb import Eplb, pack, replicate_hottest


def test_the_published_example_is_reproduced():
    """README of github.com/deepseek-ai/EPLB: 2 layers, 12 experts, 16 replicas, 4 groups, 2 nodes, 8 GPUs."""
    load_LE = np.array(
        [
            [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
            [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
        ]
    )
    planner = Eplb(redundant=4, groups=4, gpus_per_node=4)
    assert [planner.plan(load_E, 8).expert_R.tolist() for load_E in load_LE] == [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 12))
def test_no_other_numbers_of_copies_have_a_lighter_heaviest_copy(load_E, redundant):
    """Greedy is optimal here: the bound is met by counting how many copies a lighter limit would need."""
    load_E = np.array(load_E, dtype=np.float64)
    expert_R, copies_E = replicate_hottest(load_E, len(load_E) + redundant)
    assert np.bincount(expert_R, minlength=len(load_E)).tolist() == copies_E.tolist()
    heaviest = (load_E / copies_E).max()
    lighter = heaviest * (1 - 1e-9)
    needed = np.maximum(np.ceil(load_E / lighter), 1).sum() if heaviest > 0 else np.inf
    assert needed > len(load_E) + redundant


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_packs_get_as_many_items_and_no_two_differ_by_more_than_the_heaviest(packs, room, seed):
    load_I = np.random.default_rng(seed).integers(0, 100, packs * room).astype(np.float64)
    pack_I, place_I = pack(load_I, packs)
    assert np.bincount(pack_I, minlength=packs).tolist() == [room] * packs
    assert len({*zip(pack_I.tolist(), place_I.tolist(), strict=True)}) == packs * room
    assert place_I.max() == room - 1


def test_groups_stay_on_one_node_where_they_divide_over_the_nodes():
    load_E = np.random.default_rng(0).random(32)
    plan = Eplb(redundant=16, groups=8, gpus_per_node=8).plan(load_E, 16)
    nodes_of_group = [{int(gpu) // 8 for gpu in plan.gpu_R[plan.expert_R // 4 == group]} for group in range(8)]
    assert all(len(nodes) == 1 for nodes in nodes_of_group)
    scattered = Eplb(redundant=16, groups=1, gpus_per_node=8).plan(load_E, 16)
    assert any(
        len({int(gpu) // 8 for gpu in scattered.gpu_R[scattered.expert_R // 4 == group]}) == 2 for group in range(8)
    )


def test_the_mean_of_the_windows_is_what_is_balanced():
    load_WE = np.random.default_rng(1).random((5, 16))
    planner = Eplb(redundant=8)
    assert planner.plan(load_WE, 4).expert_R.tolist() == planner.plan(load_WE.mean(axis=0), 4).expert_R.tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Eplb().place(np.ones(12), 5), "use 1, 2, 3, 4, 6, 12 GPUs"),
        (lambda: Eplb().plan(np.ones(12), 0), "use at least one"),
        (lambda: Eplb(groups=8).plan(np.ones(12), 4), "12 experts in 8 groups"),
        (lambda: Eplb(groups=4, gpus_per_node=8).plan(np.ones(16), 9), "9 GPUs on 2 nodes"),
    ],
)
def test_what_does_not_divide_is_named(make, message):
    with pytest.raises(ProblemError, match=message):
        make()


@pytest.mark.parametrize("settings", [{"redundant": -1}, {"groups": 0}, {"gpus_per_node": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="at least"):
        Eplb(**settings)
