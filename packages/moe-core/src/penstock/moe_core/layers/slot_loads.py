"""How many tokens each expert got, counted while texts are served.

Shape suffixes: E experts, K experts a token, N chosen experts of many tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from penstock.hooks.contracts import Array, Router, Routing

COUNTED_AT_ONCE = 256
"""Passes whose experts are kept before they are counted: counting each would cost more than it takes to keep them."""


class ExpertLoads:
    """Of the layers of `routers`."""

    def __init__(self, routers: Mapping[int, Router]) -> None:
        self._counts = {layer: np.zeros(router.experts, np.int64) for layer, router in routers.items()}
        self._kept: dict[int, list[Tensor]] = {layer: [] for layer in self._counts}

    def add(self, layer: int, experts: Tensor) -> None:
        """The experts that a pass chose, of any shape."""
        self._kept[layer].append(experts)
        if len(self._kept[layer]) >= COUNTED_AT_ONCE:
            self._count(layer)

    def add_routings(self, routings: Mapping[int, Routing], tokens: int) -> None:
        """The experts of the last `tokens` rows of a pass."""
        for layer, routing in routings.items():
            expert_TK, kept_TK = routing.expert_TK[-tokens:], routing.kept_TK
            self.add(layer, expert_TK if kept_TK is None else expert_TK[kept_TK[-tokens:]])

    def take(self) -> dict[int, Array]:
        """The counts [E] int64 by layer, which begin anew."""
        for layer in self._counts:
            self._count(layer)
        loads: dict[int, Array] = {layer: counts.copy() for layer, counts in self._counts.items()}
        for counts in self._counts.values():
            counts[:] = 0
        return loads

    def _count(self, layer: int) -> None:
        kept, counts = self._kept[layer], self._counts[layer]
        if kept:
            expert_N = torch.cat([experts.flatten() for experts in kept])
            counts += torch.bincount(expert_N, minlength=len(counts)).cpu().numpy()
            kept.clear()
