"""Slots of any model that generates, each with a cache of its own: one text is computed after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import Array, Chosen, Generative, RewindableCache, Row
from penstock.moe_core.layers.slot_decoder import chosen_of


class SequentialSlots:
    """A `penstock.hooks.contracts.SlotDecoder`. A cache that cannot be rewound is filled again; a model without one
    reads the whole text for each token."""

    def __init__(self, model: Generative, *, slots: int, positions: int, vocabulary_size: int) -> None:
        model.train(False)
        self.slots, self.positions, self.vocabulary_size = slots, positions, vocabulary_size
        self._model = model
        self._device = next(cast(nn.Module, model).parameters()).device
        self._tokens: list[list[int]] = [[] for _ in range(slots)]
        self._caches: list[Any] = [None] * slots
        self._cached = [0] * slots
        self._draws = [torch.Generator().manual_seed(0) for _ in range(slots)]

    def begin(self, slot: int, seed: int) -> None:
        self._draws[slot].manual_seed(seed)

    def length(self, slot: int) -> int:
        return len(self._tokens[slot])

    def cut(self, slot: int, length: int) -> None:
        del self._tokens[slot][length:]
        if self._cached[slot] <= length:
            return
        cache = self._caches[slot]
        if isinstance(cache, RewindableCache):
            cache.rewind(length)
            self._cached[slot] = length
        else:
            self._caches[slot], self._cached[slot] = None, 0

    def copy(self, source: int, target: int, length: int) -> None:
        """The target reads the tokens again, with its next."""
        tokens = self._tokens[source][:length]
        self.cut(target, 0)
        self._tokens[target] = tokens

    def read(self, slot: int, tokens: Sequence[int]) -> None:
        if self.length(slot) + len(tokens) > self.positions:
            wanted = self.length(slot) + len(tokens)
            raise ValueError(f"a slot holds {self.positions} positions, but {wanted} are needed")
        self._tokens[slot] += tokens

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> list[Chosen]:
        for row in rows:
            self.read(row.slot, row.tokens)
        hidden_BD = torch.stack([self._hidden(row.slot) for row in rows])
        return chosen_of(rows, self._model.logits(hidden_BD), [self._draws[row.slot] for row in rows])

    def _hidden(self, slot: int) -> Tensor:
        """Hidden state [D] of the last token."""
        if self._caches[slot] is None:
            self._caches[slot] = self._model.new_cache(1, self.positions)
        cache = self._caches[slot]
        fresh = self._tokens[slot] if cache is None else self._tokens[slot][self._cached[slot] :]
        token_1S = torch.tensor([fresh], device=self._device)
        self._cached[slot] = 0 if cache is None else len(self._tokens[slot])
        return self._model(token_1S, cache=cache).hidden_BSD[0, -1]

    def expert_loads(self) -> Mapping[int, Array]:
        return {}
