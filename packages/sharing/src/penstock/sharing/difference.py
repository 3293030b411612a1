"""What sharing saves and what it loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from penstock.hooks.contracts import SharedGroup, SharingPlan


def shared_group(names: Sequence[str], weights: Sequence[Tensor]) -> SharedGroup:
    """The record of parameters that become the first of them; call it before tying."""
    first = weights[0]
    return SharedGroup(tuple(names), first.numel() * (len(weights) - 1), None if first.is_meta else _lost(weights))


def reported(plan: SharingPlan, parameters: Mapping[str, Tensor]) -> tuple[SharedGroup, ...]:
    """The groups of a plan that can be applied; `share` raises for the others."""
    found = [(group, [parameters.get(name) for name in group]) for group in plan.groups]
    whole = [(group, [each for each in weights if each is not None]) for group, weights in found]
    return tuple(
        shared_group(group, weights)
        for group, weights in whole
        if len(weights) == len(group) and len({weight.shape for weight in weights}) == 1
    )


@torch.no_grad()
def _lost(weights: Sequence[Tensor]) -> float:
    there = sum(float(weight.double().square().sum()) for weight in weights)
    lost = sum(float((weight.double() - weights[0].double()).square().sum()) for weight in weights)
    return (lost / there) ** 0.5 if there else 0.0
