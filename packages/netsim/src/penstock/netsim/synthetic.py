"""Synthetic routing traces: tokens whose experts follow a known law.

Every token takes k different experts, and expert e is among them with probability exactly k * share[e], capped at 1
(systematic sampling). With group-limited routing, a token first takes its groups, then experts in them.

Shape suffixes: S steps, L layers, E experts, T tokens, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.traces.trace import RoutingTrace

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Law = Callable[[np.random.Generator, int, float], Floats]

MOST_SKEWED = 100
HEAVIEST_TAIL = 0.05
"""Limits of `skew`, far beyond any model; within them no weight leaves the range of a float."""

_TOKENS_ALIKE = 64  # tokens that share one random order of experts


def _zipf(rng: np.random.Generator, experts: int, skew: float) -> Floats:
    return rng.permutation(1.0 / np.arange(1.0, experts + 1) ** skew)


def _incast(rng: np.random.Generator, experts: int, _: float) -> Floats:
    """One expert that every token takes; the others share the rest."""
    weight_E = np.ones(experts)
    weight_E[rng.integers(experts)] = np.inf
    return weight_E


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        "uniform": lambda rng, experts, skew: np.ones(experts),
        "zipf": _zipf,
        "log-normal": lambda rng, experts, skew: rng.lognormal(0.0, skew, experts),
        "power-law": lambda rng, experts, skew: rng.pareto(skew, experts) + 1.0,
        "incast": _incast,
    }
)
"""Weights of the experts. `skew` is the exponent of zipf (1: the busiest expert has twice the second's), the sigma of
log-normal (0.5 is near DeepSeek-V3's), the tail exponent of power-law (smaller is more skewed)."""


def synthetic_trace(
    law: str = "uniform",
    *,
    experts: int = 64,
    k: int = 8,
    layers: int = 4,
    steps: int = 32,
    tokens: int = 4096,
    skew: float = 1.0,
    groups: int = 1,
    group_limit: int | None = None,
    hidden_size: int = 7168,
    seed: int = 0,
) -> RoutingTrace:
    """`tokens` tokens in each of `steps` steps. Each layer draws its own busy experts and keeps them over the steps.

    With `groups` > 1 a token takes its experts from `group_limit` groups of neighbouring experts, chosen by the
    groups' shares. Raises `ProblemError` for an unknown law and for numbers that do not fit together.
    """
    if law not in LAWS:
        what = f"unknown synthetic traffic '{law}'"
        raise ProblemError(Problem("unknown-traffic", what, "synthetic", did_you_mean(law, LAWS)))
    limit = groups if group_limit is None else group_limit
    _check(experts, k, layers, steps, tokens, groups, limit)
    _check_draw(law, skew, hidden_size, seed)
    rng = np.random.default_rng(seed)
    counts_SLE = np.zeros((steps, layers, experts), dtype=np.int64)
    expert_NLK = np.zeros((steps * tokens, layers, k), dtype=np.int32)
    for layer in range(layers):
        weight_E = LAWS[law](rng, experts, skew)
        for step in range(steps):
            expert_TK = draw_experts(rng, weight_E, k, tokens, groups, limit)
            counts_SLE[step, layer] = np.bincount(expert_TK.ravel(), minlength=experts)
            expert_NLK[step * tokens : (step + 1) * tokens, layer] = expert_TK
    header: dict[str, Any] = {"model": f"synthetic {law}", "k": k, "hidden_size": hidden_size, "seed": seed}
    return RoutingTrace(counts_SLE, header | {"layers": list(range(layers))}, expert_NLK)


def draw_experts(
    rng: np.random.Generator, weight_E: Floats, k: int, tokens: int, groups: int = 1, limit: int = 1
) -> Indices:
    """`expert_TK`: k different experts for each token, in `limit` of the `groups` equal groups of experts."""
    experts = len(weight_E)
    if groups == limit:
        return _sample(rng, inclusion(weight_E, k), k, tokens)
    weight_GM = weight_E.reshape(groups, experts // groups)
    finite = np.where(np.isfinite(weight_GM), weight_GM, weight_E[np.isfinite(weight_E)].sum())
    group_TG = _sample(rng, inclusion(finite.sum(axis=1), limit), limit, tokens)
    expert_TK = np.empty((tokens, k), dtype=np.int64)
    chosen, which_T = np.unique(np.sort(group_TG, axis=1), axis=0, return_inverse=True)
    for number, group_G in enumerate(chosen):
        rows = np.flatnonzero(which_T.ravel() == number)
        members = (group_G[:, None] * (experts // groups) + np.arange(experts // groups)).ravel()
        expert_TK[rows] = members[_sample(rng, inclusion(weight_E[members], k), k, len(rows))]
    return expert_TK


def inclusion(weight_E: Floats, k: int) -> Floats:
    """The probability that a token takes each expert: k times its share, at most 1, summing to k.

    Any excess above 1 is distributed among the other experts by their weights.
    """
    certain_E = np.isinf(weight_E)
    while True:
        left = k - certain_E.sum()
        probability_E = np.where(certain_E, 1.0, 0.0)
        if left > 0:
            open_E = np.where(certain_E, 0.0, weight_E)
            total = open_E.sum()
            probability_E += left * (open_E / total if total > 0 else ~certain_E / (~certain_E).sum())
        above_E = ~certain_E & (probability_E > 1.0)
        if not above_E.any():
            return probability_E
        certain_E |= above_E


def _sample(rng: np.random.Generator, probability_E: Floats, k: int, tokens: int) -> Indices:
    """Systematic sampling: k marks one apart, laid over the probabilities in a random order."""
    expert_TK = np.empty((tokens, k), dtype=np.int64)
    for first in range(0, tokens, _TOKENS_ALIKE):
        rows = slice(first, min(first + _TOKENS_ALIKE, tokens))
        order_E = rng.permutation(len(probability_E))
        edges_E = np.cumsum(probability_E[order_E])
        marks_TK = rng.random((rows.stop - first, 1)) + np.arange(k)
        found_TK = np.searchsorted(edges_E * (k / edges_E[-1]), marks_TK, side="right")
        expert_TK[rows] = order_E[np.minimum(found_TK, len(order_E) - 1)]
    return expert_TK


def _check(experts: int, k: int, layers: int, steps: int, tokens: int, groups: int, limit: int) -> None:
    problems: list[Problem] = []
    if min(experts, k, layers, steps, tokens, groups, limit) < 1:
        problems.append(Problem("bad-value", "all numbers must be at least 1", "synthetic"))
    elif experts % groups or limit > groups:
        what = f"{experts} experts in {groups} groups, {limit} groups per token"
        problems.append(Problem("bad-value", what, "synthetic", "groups must divide experts, and limit <= groups"))
    elif k > experts // groups * limit:
        what = f"a token cannot choose {k} of {experts // groups * limit} experts"
        problems.append(Problem("bad-value", what, "synthetic", "lower k, or raise experts or limit"))
    if problems:
        raise ProblemError(problems)


def _check_draw(law: str, skew: float, hidden_size: int, seed: int) -> None:
    problems: list[Problem] = []
    least = HEAVIEST_TAIL if law == "power-law" else 0
    if not least <= skew <= MOST_SKEWED:  # also false for nan
        fix = f"use a number from {least} to {MOST_SKEWED}"
        problems.append(Problem("bad-value", f"skew is {skew}", "synthetic", fix))
    if hidden_size < 1:
        problems.append(Problem("bad-value", f"hidden_size is {hidden_size}", "synthetic", "use at least 1"))
    if seed < 0:
        problems.append(Problem("bad-value", f"seed is {seed}", "synthetic", "use a number of at least 0"))
    if problems:
        raise ProblemError(problems)
