"""Expert placement as in DeepSeek's EPLB: replicate hot experts, pack the heaviest copies first.

Written from the published description of the algorithm (README of github.com/deepseek-ai/EPLB, 2025): groups of
experts go to nodes, experts are copied inside each node, and copies go to its GPUs, all by one packing rule. If the
nodes do not divide the groups evenly, the same is done globally. A test checks equality with the published example.

Shape suffixes: W windows, E experts, R slots.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.hooks.problems import Problem, ProblemError
from penstock.netsim.plan import Floats, Integers, Plan, slots_for, windows_of


class Eplb:
    """`redundant` slots more than experts, `groups` of group-limited routing, `gpus_per_node` GPUs per node.

    The number of slots is rounded up to a multiple of the GPUs.
    """

    def __init__(self, redundant: int = 0, groups: int = 1, gpus_per_node: int = 8) -> None:
        if redundant < 0 or groups < 1 or gpus_per_node < 1:
            raise ValueError("Eplb: redundant must be at least 0, groups and gpus_per_node at least 1")
        self.redundant = redundant
        self.groups = groups
        self.gpus_per_node = gpus_per_node

    def place(self, load_E: ArrayLike, gpus: int) -> NDArray[np.int64]:
        """`gpu_E` without copies: only the packing rule. Raises `ProblemError` if GPUs do not divide experts evenly."""
        only_E = windows_of(load_E)[0]
        require_divisible(len(only_E), gpus, "eplb")
        return pack(only_E, gpus)[0]

    def plan(self, load_WE: ArrayLike, gpus: int, *, previous: Plan | None = None) -> Plan:
        """A plan from the mean of the windows; `previous` is ignored, as in the reference.

        Raises `ProblemError` if the nodes do not divide the GPUs evenly, or the groups the experts.
        """
        load_E = windows_of(load_WE).mean(axis=0)
        experts, slots = len(load_E), slots_for(len(load_E), self.redundant, gpus)
        nodes = -(-gpus // self.gpus_per_node)
        # The reference's own condition: other groups cannot be kept on one node each.
        groups, nodes = (self.groups, nodes) if self.groups % nodes == 0 else (1, 1)
        if gpus % nodes or experts % groups:
            what = f"{gpus} GPUs on {nodes} nodes, {experts} experts in {groups} groups: one does not divide evenly"
            raise ProblemError(Problem("indivisible-experts", what, "eplb", "fill every node and every group"))
        return Plan(_hierarchical(load_E, slots, groups, nodes, gpus), experts, gpus)


def _hierarchical(load_E: Floats, slots: int, groups: int, nodes: int, gpus: int) -> Integers:
    members = load_E.reshape(groups, -1)
    node_of_group, place_in_node = pack(members.sum(axis=1), nodes)
    order = np.lexsort((place_in_node, node_of_group))
    expert_NE = np.arange(len(load_E)).reshape(members.shape)[order].reshape(nodes, -1)
    return np.concatenate([_node(load_E, expert_E, slots // nodes, gpus // nodes) for expert_E in expert_NE])


def _node(load_E: Floats, expert_E: Integers, slots: int, gpus: int) -> Integers:
    """`expert_R` of one node's slots, which hold the experts `expert_E`."""
    copied, copies = replicate_hottest(load_E[expert_E], slots)
    gpu_R, place_R = pack(load_E[expert_E][copied] / copies[copied], gpus)
    expert_R = np.empty(slots, dtype=np.int64)
    expert_R[gpu_R * (slots // gpus) + place_R] = expert_E[copied]
    return expert_R


def replicate_hottest(load_E: Floats, slots: int) -> tuple[Integers, Integers]:
    """`expert_R` and `copies_E`: every expert once, then one more copy of the expert with the most load per copy."""
    copies_E = np.ones(len(load_E), dtype=np.int64)
    expert_R = np.empty(slots, dtype=np.int64)
    expert_R[: len(load_E)] = np.arange(len(load_E))
    for slot in range(len(load_E), slots):
        expert_R[slot] = np.argmax(load_E / copies_E)
        copies_E[expert_R[slot]] += 1
    return expert_R, copies_E


def pack(load_I: Floats, packs: int) -> tuple[Integers, Integers]:
    """The pack of each item and its place there: the heaviest first, each to the lightest pack that has room. All packs
    get the same number of items. Ties go to the item and the pack with the lower number."""
    room = len(load_I) // packs
    if room == 1:
        return np.arange(packs), np.zeros(packs, dtype=np.int64)
    pack_I, place_I = np.empty(len(load_I), dtype=np.int64), np.empty(len(load_I), dtype=np.int64)
    load_P, items_P = np.zeros(packs), np.zeros(packs, dtype=np.int64)
    for item in np.argsort(-load_I, kind="stable"):
        lightest = int(np.argmin(load_P))
        pack_I[item], place_I[item] = lightest, items_P[lightest]
        items_P[lightest] += 1
        # A full pack is never the lightest one.
        load_P[lightest] = load_P[lightest] + load_I[item] if items_P[lightest] < room else np.inf
    return pack_I, place_I


def require_divisible(experts: int, gpus: int, where: str) -> None:
    if gpus < 1 or experts % gpus:
        divisors = ", ".join(str(number) for number in range(1, experts + 1) if experts % number == 0)
        what = f"{experts} experts do not divide evenly over {gpus} GPUs"
        raise ProblemError(Problem("indivisible-experts", what, where, f"use {divisors} GPUs"))
