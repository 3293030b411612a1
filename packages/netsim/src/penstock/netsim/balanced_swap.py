"""Expert placement for future windows: several replica counts are packed and the best are refined by pair swaps.

EPLB balances one vector of loads. A plan that is balanced to 1 % on that vector is 2 to 20 % off on the next window.
This planner differs in three ways, measured by `tests/benchmarks/netsim_planning.py`:

- The objective is the average over past windows of their busiest GPU (as a p-norm), not the busiest GPU of their mean:
  experts that surge together are kept apart. Newer windows get more weight if that would have predicted better.
- Replicas are chosen jointly with the packing. EPLB spends every redundant slot on the hottest expert; four hot experts
  on 16 GPUs then get six copies each, and half of the GPUs get two. Four copies each, one per GPU, are balanced.
- Whole GPUs are exchanged between nodes at the end, which leaves the balance unchanged and brings copies to more nodes.

Shape suffixes: W windows, E experts, R slots, G GPUs, N nodes, C candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.netsim.eplb import replicate_hottest, require_divisible
from penstock.netsim.plan import Floats, Integers, Plan, slots_for, stay_shares, windows_of
from penstock.netsim.swaps import norm_of_loads, swap_pairs

# Replica counts that are packed: with 5, four experts that get 90 % of the load keep too many copies; 9 is enough.
CANDIDATES = 9
# How many of these swaps refine: the second best packing is the best one after refinement often enough to be worth it.
REFINED = 2
# 256 experts on 288 slots reach a local optimum after 80 to 130 swaps.
SWAPS = 150
# Most windows that are kept apart; beyond that, neighbours are added up, because time grows with their number.
WINDOWS = 8
# Weight of a window relative to the next newer one. The value that would have predicted the given windows best is used.
DECAYS = (1.0, 0.8, 0.6, 0.4)


class BalancedSwap:
    """`redundant` slots more than experts, rounded up to a multiple of the GPUs; `gpus_per_node` GPUs per node.

    `most_moved` limits the share of slots that a plan may change relative to the previous plan; 1 is no limit.
    """

    def __init__(self, redundant: int = 0, gpus_per_node: int = 8, most_moved: float = 1.0) -> None:
        if redundant < 0 or gpus_per_node < 1 or not 0 <= most_moved <= 1:
            raise ValueError("BalancedSwap requires redundant >= 0, gpus_per_node >= 1 and 0 <= most_moved <= 1")
        self.redundant = redundant
        self.gpus_per_node = gpus_per_node
        self.most_moved = most_moved

    def place(self, load_E: ArrayLike, gpus: int) -> NDArray[np.int64]:
        """`gpu_E` without copies. Raises `ProblemError` if the GPUs do not divide the experts evenly."""
        load_1E = windows_of(load_E)[:1]
        require_divisible(load_1E.shape[1], gpus, "balanced-swap")
        plan = _balanced(_relative(load_1E, gpus), np.ones(1), load_1E.shape[1], gpus)
        gpu_E = np.empty(plan.experts, dtype=np.int64)
        gpu_E[plan.expert_R] = plan.gpu_R
        return gpu_E

    def plan(self, load_WE: ArrayLike, gpus: int, *, previous: Plan | None = None) -> Plan:
        """A plan that keeps the GPUs balanced over windows like these.

        With `previous`, GPUs are numbered so that as few slots as possible move. If more than `most_moved` of the slots
        would still move, `previous` is improved by as many swaps as are allowed instead. Raises `ProblemError` if
        `previous` has a different number of experts or GPUs.
        """
        load_WE = windows_of(load_WE)
        slots = slots_for(load_WE.shape[1], self.redundant, gpus)
        relative_WE = _relative(_merged(load_WE), gpus)
        weight_W = weights_by_age(relative_WE)
        plan = _balanced(relative_WE, weight_W, slots, gpus)
        if previous is None:
            return spread_over_nodes(plan, weight_W @ relative_WE, self.gpus_per_node)
        plan = numbered_like(plan, previous)
        if plan.moved_slots(previous) <= self.most_moved * slots or len(previous.expert_R) != slots:
            return plan
        return swap_pairs(previous, relative_WE, weight_W, int(self.most_moved * slots) // 2)


def _balanced(relative_WE: Floats, weight_W: Floats, slots: int, gpus: int) -> Plan:
    """The best refined candidate, ignoring nodes."""

    def norm(plan: Plan) -> float:
        return norm_of_loads(plan.gpu_loads(relative_WE), weight_W)

    expected_E = weight_W @ relative_WE
    plans = [_packed(expected_E, copies_E, gpus) for copies_E in _replica_counts(expected_E, slots, gpus)]
    best = sorted(plans, key=norm)[:REFINED]
    return min((swap_pairs(plan, relative_WE, weight_W, SWAPS) for plan in best), key=norm)


def weights_by_age(relative_WE: Floats) -> Floats:
    """`weight_W`, which sum to 1: each window weighs `decay` times as much as the next newer one.

    Takes the decay of `DECAYS` whose weighted means of earlier windows come nearest to the window after them.
    """

    def weights(decay: float, windows: int) -> Floats:
        weight_W = decay ** np.arange(windows - 1, -1, -1.0)
        return weight_W / weight_W.sum()

    def error(decay: float) -> float:
        misses = (weights(decay, now) @ relative_WE[:now] - relative_WE[now] for now in range(2, len(relative_WE)))
        return float(sum((miss_E**2).sum() for miss_E in misses))

    return weights(min(DECAYS, key=error), len(relative_WE))


def _merged(load_WE: Floats) -> Floats:
    """At most `WINDOWS` windows: neighbours are added up."""
    starts = np.linspace(0, len(load_WE), min(WINDOWS, len(load_WE)), endpoint=False).astype(np.int64)
    return np.add.reduceat(load_WE, starts, axis=0)


def _relative(load_WE: Floats, gpus: int) -> Floats:
    """Loads in units of the mean GPU's; experts of a window without tokens count as equally busy."""
    total_W1 = load_WE.sum(axis=1, keepdims=True)
    share_WE = np.divide(load_WE, total_W1, out=np.full_like(load_WE, 1 / load_WE.shape[1]), where=total_W1 > 0)
    return share_WE * gpus


def _replica_counts(load_E: Floats, slots: int, gpus: int) -> list[Integers]:
    """`copies_E` of each candidate: some of the redundant slots go to the hottest experts in turn, the rest to the
    experts with the fewest copies, the busiest first. No expert gets more copies than there are GPUs."""
    experts, redundant = len(load_E), slots - len(load_E)
    hottest_R = replicate_hottest(load_E, slots)[0]
    counts: list[Integers] = []
    for hot in sorted({round(redundant * step / (CANDIDATES - 1)) for step in range(CANDIDATES)}):
        copies_E = np.minimum(np.bincount(hottest_R[: experts + hot], minlength=experts), gpus)
        while (left := slots - int(copies_E.sum())) > 0:
            fewest = np.flatnonzero(copies_E == copies_E.min())
            copies_E[fewest[np.argsort(-load_E[fewest], kind="stable")][:left]] += 1
        counts.append(copies_E)
    return list({copies_E.tobytes(): copies_E for copies_E in counts}.values())


def _packed(load_E: Floats, copies_E: Integers, gpus: int) -> Plan:
    """The heaviest copy first, each to the lightest GPU that has room and no copy of the same expert."""
    each_E = load_E / copies_E
    copy_R = np.repeat(np.arange(len(load_E)), copies_E)
    room = len(copy_R) // gpus
    load_G, held_G = np.zeros(gpus), np.zeros(gpus, dtype=np.int64)
    has_EG = np.zeros((len(load_E), gpus))
    expert_GR = np.empty((gpus, room), dtype=np.int64)
    for expert in copy_R[np.argsort(-each_E[copy_R], kind="stable")]:
        # A GPU gets a second copy only if all other GPUs are full; swaps remove it again.
        gpu = int(np.argmin(load_G + has_EG[expert]))
        expert_GR[gpu, held_G[gpu]] = expert
        has_EG[expert, gpu] = 1e9
        load_G[gpu] += each_E[expert]
        held_G[gpu] += 1
        if held_G[gpu] == room:
            load_G[gpu] = np.inf
    return without_duplicates(Plan(expert_GR.ravel(), len(load_E), gpus))


def without_duplicates(plan: Plan) -> Plan:
    """The plan with at most one copy of an expert on every GPU, by exchanging each second copy with a slot of another
    GPU.

    No expert may have more copies than there are GPUs. A slot to exchange with always exists: a GPU without the expert
    and without duplicates holds more distinct other experts than the duplicate's GPU.
    """
    expert_GR = plan.expert_R.reshape(plan.gpus, -1).copy()
    while (held_GE := Plan(expert_GR.ravel(), plan.experts, plan.gpus).held_GE).max() > 1:
        gpu, expert = np.argwhere(held_GE > 1)[0]
        harm_GR = (held_GE[gpu][expert_GR] > 0).astype(np.int64)  # the duplicate's GPU would have it twice
        harm_GR -= np.take_along_axis(held_GE, expert_GR, axis=1) > 1  # the other GPU loses a duplicate of its own
        harm_GR[held_GE[:, expert] > 0] = 2  # the other GPU would have the expert twice
        other = np.unravel_index(int(np.argmin(harm_GR)), harm_GR.shape)
        mine = (gpu, int(np.flatnonzero(expert_GR[gpu] == expert)[0]))
        expert_GR[mine], expert_GR[other] = expert_GR[other], expert_GR[mine]
    return Plan(expert_GR.ravel(), plan.experts, plan.gpus)


def spread_over_nodes(plan: Plan, load_E: Floats, gpus_per_node: int) -> Plan:
    """The plan with GPUs exchanged between nodes while that keeps more tokens at home; no GPU's load changes."""
    held_GE, order_G = plan.held_GE, np.arange(plan.gpus)
    copied = np.flatnonzero(plan.copies_E > 1)
    if plan.gpus <= gpus_per_node or not len(copied):
        return plan
    held_GE, copies_E, load_E = held_GE[:, copied], plan.copies_E[copied], load_E[copied]
    node_G = np.arange(plan.gpus) // gpus_per_node

    for _ in range(plan.gpus):
        before = order_G.copy()
        for gpu in range(plan.gpus):
            here_GE = held_GE[order_G]
            node_NE = np.add.reduceat(here_GE, np.arange(0, plan.gpus, gpus_per_node), axis=0)
            change_GE = here_GE - here_GE[gpu]
            after_GE = _stay(node_NE[node_G[gpu]] + change_GE, copies_E, len(node_NE))
            after_GE += _stay(node_NE[node_G] - change_GE, copies_E, len(node_NE))
            stay_NE = stay_shares(node_NE, copies_E)
            gain_G = (after_GE - stay_NE[node_G[gpu]] - stay_NE[node_G]) @ load_E
            gain_G[node_G == node_G[gpu]] = 0.0
            best = int(np.argmax(gain_G))
            if gain_G[best] > 1e-9:
                order_G[[gpu, best]] = order_G[[best, gpu]]
        if (before == order_G).all():
            break
    return Plan(plan.expert_R.reshape(plan.gpus, -1)[order_G].ravel(), plan.experts, plan.gpus)


def _stay(copies_GE: Integers, copies_E: Integers, nodes: int) -> Floats:
    return np.minimum(1 / nodes, copies_GE / copies_E)


def numbered_like(plan: Plan, previous: Plan) -> Plan:
    """The same GPUs in another order: each gets the number of the previous GPU it resembles, the most similar first."""
    plan.moved_slots(previous)  # refuses plans with other numbers of experts or GPUs
    alike_GG = np.minimum(plan.held_GE[:, None], previous.held_GE[None]).sum(axis=2).astype(np.float64)
    order_G = np.empty(plan.gpus, dtype=np.int64)
    for _ in range(plan.gpus):
        gpu, number = np.unravel_index(int(np.argmax(alike_GG)), alike_GG.shape)
        order_G[number] = gpu
        alike_GG[gpu], alike_GG[:, number] = -1, -1
    return Plan(plan.expert_R.reshape(plan.gpus, -1)[order_G].ravel(), plan.experts, plan.gpus)
