"""What sharing saves and what it loses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from penstock.hooks.contracts import SharedGroup


def shared_group(names: Sequence[str], weights: Sequence[Tensor]) -> SharedGroup:
    """The record of parameters that become the first of them; call it before tying."""
    first = weights[0]
    return SharedGroup(tuple(names), first.numel() * (len(weights) - 1), None if first.is_meta else _lost(weights))


@torch.no_grad()
def _lost(weights: Sequence[Tensor]) -> float:
    there = sum(float(weight.double().square().sum()) for weight in weights)
    lost = sum(float((weight.double() - weights[0].double()).square().sum()) for weight in weights)
    return (lost / there) ** 0.5 if there else 0.0
