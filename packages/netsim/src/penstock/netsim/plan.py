"""A plan: which expert each slot of each GPU holds, copies included, and how well it balances loads it has not seen.

A placement (the contract) puts every expert on one GPU. A plan may give a busy expert several slots, which share its
tokens evenly, as in serving engines.

Shape suffixes: W windows of a trace, E experts, R slots, G GPUs, N nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.hooks.problems import Problem, ProblemError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """`expert_R`, the expert of every slot: the first R / gpus slots are GPU 0's, the next ones GPU 1's, and so on.

    Raises `ProblemError` if one of the experts 0 .. experts - 1 has no slot, a slot holds any other expert, or the GPUs
    do not divide the slots evenly.
    """

    expert_R: Integers
    experts: int
    gpus: int

    def __post_init__(self) -> None:
        slots = len(self.expert_R)
        if self.gpus < 1 or slots % self.gpus:
            what = f"{slots} slots do not divide evenly over {self.gpus} GPUs"
            raise ProblemError(Problem("indivisible-experts", what, "placement", "give every GPU the same slots"))
        if slots and (self.expert_R.min() < 0 or self.expert_R.max() >= self.experts):
            what = f"a slot holds an expert outside 0 .. {self.experts - 1}"
            raise ProblemError(Problem("unknown-expert", what, "placement", "number the experts of the layer from 0"))
        missing = np.flatnonzero(self.copies_E == 0)
        if len(missing):
            named = ", ".join(str(expert) for expert in missing[:8]) + (", ..." if len(missing) > 8 else "")
            what = f"{len(missing)} of {self.experts} experts have no GPU: {named}"
            raise ProblemError(Problem("missing-expert", what, "placement", "give every expert a slot"))

    @classmethod
    def of(cls, gpu_E: ArrayLike, gpus: int) -> Plan:
        """The plan of a placement without copies, `gpu_E` as `Placement.place` returns it."""
        gpu_E = np.asarray(gpu_E, dtype=np.int64)
        held_G = np.bincount(gpu_E, minlength=gpus)
        if len(held_G) > gpus or held_G.min() != held_G.max():
            what = f"GPUs hold between {held_G.min()} and {held_G.max()} experts"
            raise ProblemError(Problem("indivisible-experts", what, "placement", "give every GPU the same number"))
        return cls(np.argsort(gpu_E, kind="stable"), len(gpu_E), gpus)

    @property
    def gpu_R(self) -> Integers:
        """The GPU of every slot."""
        return np.arange(len(self.expert_R)) // (len(self.expert_R) // self.gpus)

    @property
    def copies_E(self) -> Integers:
        """How many slots hold each expert."""
        return np.bincount(self.expert_R, minlength=self.experts)

    @property
    def held_GE(self) -> Integers:
        """How many slots of each GPU hold each expert."""
        held_GE = np.zeros((self.gpus, self.experts), dtype=np.int64)
        np.add.at(held_GE, (self.gpu_R, self.expert_R), 1)
        return held_GE

    @property
    def duplicates(self) -> int:
        """Slots that hold the same expert as another slot of their GPU: memory that balances nothing."""
        return int(np.maximum(self.held_GE - 1, 0).sum())

    def slot_loads(self, load_WE: ArrayLike) -> Floats:
        """`load_WR` when the copies of an expert share its load; raises `ProblemError` for loads of other experts."""
        load_WE = np.asarray(load_WE, dtype=np.float64)
        if load_WE.shape[-1] != self.experts:
            what = f"the loads have {load_WE.shape[-1]} experts, but the placement has {self.experts}"
            raise ProblemError(
                Problem("other-experts", what, "placement", "place the experts of the trace's own model")
            )
        return load_WE[..., self.expert_R] / self.copies_E[self.expert_R]

    def gpu_loads(self, load_WE: ArrayLike) -> Floats:
        """`load_WG`: the total load of each GPU's slots."""
        load_WR = self.slot_loads(load_WE)
        return load_WR.reshape(*load_WR.shape[:-1], self.gpus, -1).sum(axis=-1)

    def imbalance(self, load_WE: ArrayLike) -> Floats:
        """Load of the busiest GPU over the mean, in each window; 1 is perfect, and the value of an empty window."""
        load_WG = self.gpu_loads(load_WE)
        mean_W = load_WG.mean(axis=-1)
        return np.divide(load_WG.max(axis=-1), mean_W, out=np.ones_like(mean_W), where=mean_W > 0)

    def off_node_share(self, load_E: ArrayLike, gpus_per_node: int) -> float:
        """The smallest share of the assignments that must leave their node.

        Tokens are spread evenly over all nodes, every copy of an expert gets the same number of them, and a node's
        tokens go to copies on their own node first. For an expert with `c` copies, `c_n` of them on node n of N, the
        share `sum over n of min(1 / N, c_n / c)` of its tokens stays on its node.
        """
        load_E = np.asarray(load_E, dtype=np.float64)
        stays_E = stay_shares(self.node_copies(gpus_per_node), self.copies_E).sum(axis=0)
        total = load_E.sum()
        return float(1 - (load_E * stays_E).sum() / total) if total else 0.0

    def node_copies(self, gpus_per_node: int) -> Integers:
        """`copies_NE`: how many slots of each node hold each expert; GPUs 0 .. gpus_per_node - 1 are node 0."""
        return np.add.reduceat(self.held_GE, np.arange(0, self.gpus, gpus_per_node), axis=0)

    def moved_slots(self, previous: Plan) -> int:
        """Slots whose expert was not on their GPU before: each costs the transfer of one expert's weights.

        Raises `ProblemError` if the two plans have different numbers of experts or GPUs.
        """
        if (self.experts, self.gpus) != (previous.experts, previous.gpus):
            what = (
                f"the previous placement has {previous.experts} experts on {previous.gpus} GPUs, "
                f"this one has {self.experts} on {self.gpus}"
            )
            raise ProblemError(Problem("other-experts", what, "placement", "compare placements of one layer"))
        return int(np.maximum(self.held_GE - previous.held_GE, 0).sum())


@runtime_checkable
class Planner(Protocol):
    """A placement that can give experts copies: from loads of past windows to a plan for the next."""

    def plan(self, load_WE: ArrayLike, gpus: int, *, previous: Plan | None = None) -> Plan: ...


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How well a planner's plans balanced the windows after those it saw; means over these windows.

    `imbalance` is that of `Plan.imbalance`, `excess` is `imbalance` - 1. `seen_imbalance` is measured on the sum of the
    windows that the planner saw. `moved_share` is the share of slots whose expert changed from one plan to the next.
    """

    imbalance: float
    seen_imbalance: float
    off_node_share: float
    moved_share: float
    duplicates: float

    @property
    def excess(self) -> float:
        return self.imbalance - 1


def held_out(
    planner: Planner, load_WE: ArrayLike, gpus: int, *, history: int = 8, gpus_per_node: int = 8, keep: bool = False
) -> HeldOut:
    """Replays a trace: each window after the first `history` judges a plan made from the windows before it.

    With `keep`, each plan is made with the previous one as `previous`. Raises ValueError if no window is left to judge.
    """
    load_WE = np.asarray(load_WE, dtype=np.float64)
    if not 0 < history < len(load_WE):
        raise ValueError(f"{len(load_WE)} windows leave none to judge after a history of {history}")
    previous: Plan | None = None
    rows: list[tuple[float, float, float, float, float]] = []
    for now in range(history, len(load_WE)):
        seen_WE = load_WE[now - history : now]
        plan = planner.plan(seen_WE, gpus, previous=previous if keep else None)
        moved = plan.moved_slots(previous) / len(plan.expert_R) if previous is not None else 0.0
        seen, next_one = plan.imbalance(seen_WE.sum(axis=0)), plan.imbalance(load_WE[now])
        rows.append(
            (float(next_one), float(seen), plan.off_node_share(load_WE[now], gpus_per_node), moved, plan.duplicates)
        )
        previous = plan
    return HeldOut(*(float(value) for value in np.mean(rows, axis=0)))


def stay_shares(copies_NE: Integers, copies_E: Integers) -> Floats:
    """The share of each expert's tokens that each node keeps for its own copies; see `off_node_share`."""
    return np.minimum(1 / len(copies_NE), copies_NE / copies_E)


def slots_for(experts: int, redundant: int, gpus: int) -> int:
    """The smallest multiple of the GPUs that gives slots to all experts and `redundant` more; at most one for every
    expert on every GPU."""
    if gpus < 1:
        raise ProblemError(Problem("no-gpus", f"cannot place experts on {gpus} GPUs", "placement", "use at least one"))
    return -(-min(experts + redundant, experts * gpus) // gpus) * gpus


def windows_of(load_WE: ArrayLike) -> Floats:
    """Loads as fp64 [windows, experts]; a single window may lack its axis. Raises `ProblemError` for loads that are not
    counts or weights."""
    load_WE = np.atleast_2d(np.asarray(load_WE, dtype=np.float64))
    if load_WE.ndim != 2 or not load_WE.size or not np.isfinite(load_WE).all() or (load_WE < 0).any():
        what = f"loads of shape {load_WE.shape} are not finite counts >= 0 of windows and experts"
        raise ProblemError(Problem("bad-load", what, "placement", "pass one count per expert"))
    return load_WE
