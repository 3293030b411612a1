"""Expert load: how many assignments each expert computed, and how uneven that is.

Counts are of real tokens only, and exact integers from one bincount over all layers. What capacity turned away is
counted apart, because the load before drops and the load after are two numbers. Metrics take integer counts
[..., E] of anything (a step, a domain, a whole run) and return fp64 [...]: `max_violation` of one step's counts is the
MaxVio_batch of arXiv 2408.15664, of the summed counts of a set its MaxVio_global. A row without any assignment says
nothing about its experts, and every metric of it is 0.

Shape suffixes: T tokens, K experts a token, E experts, L mixture-of-experts layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from penstock.hooks.contracts import ExpertLoad, Routing


def count_assignments(
    experts_TK: Sequence[Tensor],
    *,
    experts: int,
    mask_T: Tensor | None = None,
    slots_TK: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Assignments by row and expert, int64 [len(experts_TK), experts].

    `experts_TK` holds one int64 tensor [T, K] a row; K may differ from row to row. Tokens whose `mask_T` is False do
    not count, nor do slots that are False in their row's `slots_TK` (None: all do).
    """
    rows = len(experts_TK)
    if rows == 0:
        return torch.zeros(0, experts, dtype=torch.int64)
    padding_bin = rows * experts
    bins = [expert_TK + row * experts for row, expert_TK in enumerate(experts_TK)]
    if mask_T is not None:
        bins = [torch.where(mask_T.unsqueeze(-1), bin_TK, padding_bin) for bin_TK in bins]
    if slots_TK is not None:
        bins = [
            bin_TK if slot_TK is None else torch.where(slot_TK, bin_TK, padding_bin)
            for bin_TK, slot_TK in zip(bins, slots_TK, strict=True)
        ]
    flat = torch.cat([bin_TK.flatten() for bin_TK in bins])
    return flat.bincount(minlength=padding_bin + 1)[:padding_bin].view(rows, experts)


def expert_load(routings: Mapping[int, Routing], mask_T: Tensor | None = None) -> ExpertLoad:
    """The load of one forward pass, rows in the order of layer indices: the slots that were kept, and the dropped ones
    where a router drops any.

    `mask_T` is True for tokens that count (None: all do). Raises ValueError where layers differ in their number of
    experts. A model without routers has a load of shape [0, 0].
    """
    layers = tuple(sorted(routings))
    sizes = {layer: routings[layer].logits_TE.shape[-1] for layer in layers}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"layers differ in their number of experts {sizes}: count them in separate calls")
    experts = sizes[layers[0]] if layers else 0
    named = [routings[layer].expert_TK for layer in layers]
    kept = [routings[layer].kept_TK for layer in layers]
    dropped = [routings[layer].dropped_TK for layer in layers]
    counts_LE = count_assignments(named, experts=experts, mask_T=mask_T, slots_TK=kept)
    if all(dropped_TK is None for dropped_TK in dropped):
        return ExpertLoad(counts_LE, layers)
    turned_away = [
        torch.zeros_like(expert_TK, dtype=torch.bool) if dropped_TK is None else dropped_TK
        for expert_TK, dropped_TK in zip(named, dropped, strict=True)
    ]
    dropped_LE = count_assignments(named, experts=experts, mask_T=mask_T, slots_TK=turned_away)
    return ExpertLoad(counts_LE, layers, dropped_LE)


def chosen_slots(routing: Routing) -> Tensor | None:
    """The slots [T, K] that hold a choice of the token, kept or dropped; None: all do."""
    if routing.kept_TK is None or routing.dropped_TK is None:
        return routing.kept_TK
    return routing.kept_TK | routing.dropped_TK


def max_violation(counts_E: Tensor) -> Tensor:
    """MaxVio = (max - mean) / mean of the last dimension (arXiv 2408.15664 Eq. 4); 0 is even, E - 1 is collapse."""
    load_E = counts_E.double()
    mean = load_E.mean(dim=-1)
    return _ratio(load_E.amax(dim=-1) - mean, mean)


def gini(counts_E: Tensor) -> Tensor:
    """Gini coefficient: mean absolute difference of two experts over twice the mean; in [0, 1 - 1/E]."""
    sorted_E = counts_E.double().sort(dim=-1).values
    experts = sorted_E.shape[-1]
    rank_E = 2.0 * torch.arange(1, experts + 1, dtype=torch.float64, device=counts_E.device) - experts - 1
    return _ratio((rank_E * sorted_E).sum(dim=-1), experts * sorted_E.sum(dim=-1))


def coefficient_of_variation(counts_E: Tensor) -> Tensor:
    """Population standard deviation over mean."""
    load_E = counts_E.double()
    return _ratio(load_E.std(dim=-1, correction=0), load_E.mean(dim=-1))


def entropy(counts_E: Tensor) -> Tensor:
    """Entropy of the load over log E, in [0, 1]; 1 is even. A single expert is always evenly loaded: 1."""
    load_E = counts_E.double()
    total = load_E.sum(dim=-1)
    experts = load_E.shape[-1]
    if experts == 1:
        return (total > 0).double()
    return torch.special.entr(_ratio(load_E, total.unsqueeze(-1))).sum(dim=-1) / math.log(experts)


def dead_experts(counts_E: Tensor) -> Tensor:
    """Experts without any assignment."""
    dead = (counts_E == 0).sum(dim=-1).double()
    return torch.where(counts_E.sum(dim=-1) > 0, dead, 0.0)


def load_metrics(counts_LE: Tensor) -> dict[str, float]:
    """What to log each step: means over layers, the worst layer's MaxVio, and the dead experts of all layers together.

    Keys: `max_violation`, `max_violation_worst`, `gini`, `cv`, `entropy`, `dead_experts`. Empty for L = 0. The values
    leave the device in one copy.
    """
    if counts_LE.shape[0] == 0:
        return {}
    violation_L = max_violation(counts_LE)
    values = {
        "max_violation": violation_L.mean(),
        "max_violation_worst": violation_L.max(),
        "gini": gini(counts_LE).mean(),
        "cv": coefficient_of_variation(counts_LE).mean(),
        "entropy": entropy(counts_LE).mean(),
        "dead_experts": dead_experts(counts_LE).sum(),
    }
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is 0: a row without assignments."""
    return torch.where(denominator > 0, numerator / denominator, 0.0)
