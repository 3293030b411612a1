"""Expert load: how many assignments each expert computed, counted on the device of the routing.

Counts are of real tokens only, and exact integers from one bincount over all layers. Assignments dropped
by capacity are counted separately, because the load before and after drops are two numbers. The metrics of imbalance
are defined in `penstock.traces.load` and can be imported from here too.

Shape suffixes: T tokens, K experts per token, E experts, L mixture-of-experts layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from penstock.hooks.contracts import ExpertLoad, Routing
from penstock.traces.load import (
    coefficient_of_variation,
    dead_experts,
    entropy,
    gini,
    load_metrics,
    max_violation,
)

__all__ = [
    "chosen_slots",
    "coefficient_of_variation",
    "count_assignments",
    "dead_experts",
    "entropy",
    "expert_load",
    "gini",
    "load_metrics",
    "max_violation",
]


def count_assignments(
    experts_TK: Sequence[Tensor],
    *,
    experts: int,
    mask_T: Tensor | None = None,
    slots_TK: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Assignments by row and expert, int64 [len(experts_TK), experts].

    `experts_TK` holds one int64 tensor [T, K] per row; K may differ from row to row. Tokens whose `mask_T` is False do
    not count, nor do slots that are False in their row's `slots_TK` (None: all count).
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
    """The load of one forward pass, rows in the order of layer indices: the kept slots, and the dropped ones if there
    are any.

    `mask_T` is True for tokens that count (None: all count). Raises ValueError if layers differ in their number of
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
    """The slots [T, K] that hold a choice of the token, kept or dropped; None means all slots."""
    if routing.kept_TK is None or routing.dropped_TK is None:
        return routing.kept_TK
    return routing.kept_TK | routing.dropped_TK
