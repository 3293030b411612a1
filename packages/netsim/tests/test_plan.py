"""Plans: what they refuse, and what their figures mean, each against a dumb count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.hooks.problems import ProblemError
from penstock.netsim.eplb import Eplb
from penstock.netsim.placement import Contiguous
from penstock.netsim.plan import Plan, held_out, slots_for, windows_of


@st.composite
def plans(draw):
    """Any plan of up to 6 GPUs, duplicates included."""
    gpus, room = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    experts = draw(st.integers(1, gpus * room))
    extra = draw(st.lists(st.integers(0, experts - 1), min_size=gpus * room - experts, max_size=gpus * room - experts))
    return Plan(np.array(draw(st.permutations([*range(experts), *extra])), dtype=np.int64), experts, gpus)


@given(plans(), st.integers(0, 2**32 - 1))
def test_gpu_loads_equal_dealing_out_token_by_token(plan, seed):
    """Each expert's tokens go to its slots in turn; as many as there are copies, times a whole number."""
    tokens_E = np.random.default_rng(seed).integers(0, 5, plan.experts) * plan.copies_E
    dealt_G, next_slot = np.zeros(plan.gpus), dict.fromkeys(range(plan.experts), 0)
    for expert, tokens in enumerate(tokens_E):
        slots = np.flatnonzero(plan.expert_R == expert)
        for _ in range(tokens):
            slot = slots[next_slot[expert] % len(slots)]
            dealt_G[slot // (len(plan.expert_R) // plan.gpus)] += 1
            next_slot[expert] += 1
    assert plan.gpu_loads(tokens_E) == pytest.approx(dealt_G)
    assert plan.gpu_loads(tokens_E).sum() == pytest.approx(tokens_E.sum())


@given(plans())
def test_duplicates_are_slots_beyond_one_an_expert_and_gpu(plan):
    different = {(int(gpu), int(expert)) for gpu, expert in zip(plan.gpu_R, plan.expert_R, strict=True)}
    assert plan.duplicates == len(plan.expert_R) - len(different)


@given(plans(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_the_off_node_share_is_the_least_that_a_transport_needs(plan, gpus_per_node, seed):
    """Every node has 1/N of an expert's tokens and every copy takes as many: what is at home stays, and no more can."""
    load_E = np.random.default_rng(seed).random(plan.experts) + 0.1
    nodes = -(-plan.gpus // gpus_per_node)
    crossing = 0.0
    for expert in range(plan.experts):
        copies = [int(gpu) // gpus_per_node for gpu in plan.gpu_R[plan.expert_R == expert]]
        for node in range(nodes):
            surplus = 1 / nodes - copies.count(node) / len(copies)
            crossing += load_E[expert] * max(0.0, surplus)
    assert plan.off_node_share(load_E, gpus_per_node) == pytest.approx(crossing / load_E.sum())


def test_only_slots_that_hold_something_new_moved():
    before = Plan(np.array([0, 1, 2, 3]), 4, 2)
    assert before.moved_slots(before) == 0
    assert Plan(np.array([1, 0, 3, 2]), 4, 2).moved_slots(before) == 0
    assert Plan(np.array([0, 2, 1, 3]), 4, 2).moved_slots(before) == 2


def test_a_placement_of_the_contract_is_a_plan_without_copies():
    plan = Plan.of(np.array([1, 0, 1, 0]), 2)
    assert plan.gpu_loads([1, 10, 100, 1000]).tolist() == [1010, 101]
    assert Plan.of(Contiguous().place(np.ones(8), 4), 4).expert_R.tolist() == list(range(8))


def test_windows_without_tokens_are_balanced():
    assert Plan(np.arange(4), 4, 2).imbalance([[0, 0, 0, 0], [1, 0, 0, 0]]).tolist() == [1.0, 2.0]


@given(st.integers(1, 40), st.integers(0, 20), st.integers(1, 16))
def test_slots_are_the_fewest_that_divide_over_the_gpus(experts, redundant, gpus):
    slots = slots_for(experts, redundant, gpus)
    assert slots % gpus == 0
    assert slots == experts * gpus or slots - gpus < experts + redundant <= slots
    assert slots <= experts * gpus


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plan(np.array([0, 1, 1, 3]), 4, 2), "1 of 4 experts have no GPU: 2"),
        (
            lambda: Plan(np.zeros(40, dtype=np.int64), 20, 2),
            r"19 of 20 experts have no GPU: 1, 2, 3, 4, 5, 6, 7, 8, \.\.\.",
        ),
        (lambda: Plan(np.array([0, 1, 4, 3]), 4, 2), r"outside 0 \.\. 3"),
        (lambda: Plan(np.array([0, 1, 2]), 3, 2), "3 slots do not divide evenly over 2 GPUs"),
        (lambda: Plan(np.array([0]), 1, 0), "do not divide evenly over 0 GPUs"),
        (lambda: Plan.of(np.array([0, 0, 0, 1]), 2), "between 1 and 3 experts"),
        (lambda: Plan.of(np.array([0, 2]), 2), "between 0 and 1 experts"),
        (lambda: Plan(np.arange(4), 4, 2).gpu_loads(np.ones(5)), "loads have 5 experts, but the placement has 4"),
        (lambda: Plan(np.arange(4), 4, 2).moved_slots(Plan(np.arange(4), 4, 4)), "4 experts on 4 GPUs"),
        (lambda: slots_for(4, 0, 0), "use at least one"),
        (lambda: windows_of([1, -1]), "not finite counts"),
        (lambda: windows_of([]), "not finite counts"),
    ],
)
def test_what_cannot_be_a_plan_is_named(make, message):
    with pytest.raises(ProblemError, match=message):
        make()


def test_a_replay_judges_each_plan_on_the_window_after_those_it_saw():
    load_WE = np.array([[4, 1, 1, 1], [1, 4, 1, 1], [1, 1, 4, 1]])
    result = held_out(Eplb(redundant=0), load_WE, 2, history=1)
    first, second = Eplb().plan(load_WE[0], 2), Eplb().plan(load_WE[1], 2)
    expected = (first.imbalance(load_WE[1]) + second.imbalance(load_WE[2])) / 2
    assert result.imbalance == pytest.approx(float(expected))
    assert result.excess == result.imbalance - 1
    assert result.moved_share == pytest.approx(second.moved_slots(first) / 4 / 2)
    with pytest.raises(ValueError, match="3 windows"):
        held_out(Eplb(), load_WE, 2, history=3)
