"""Slots of any model that generates, each with a cache of its own: one text is computed after the other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import Array, Chosen, Generative, RewindableCache, Row
from penstock.moe_core.layers.slot_decoder import chosen_of
from penstock.moe_core.layers.slot_loads import ExpertLoads


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@dataclass(slots=True)
class _Text:
    """What a slot has read, and what it reads with the next token. `cache` None: nothing was read, or the model keeps
    nothing between passes."""

    tokens: list[int] = field(default_factory=list[int])
    later: list[int] = field(default_factory=list[int])
    cache: Any = None
    draws: torch.Generator = field(default_factory=_generator)


class SequentialSlots:
    """A `penstock.hooks.contracts.SlotDecoder`.

    A cache that cannot be rewound, such as the state of a recurrent model, is copied whole and forgotten whole. It goes
    on by one token at a time: not all of transformers' recurrent models go on by more (Mamba begins anew). A model
    without a cache reads the text again for each token. `whole`: a prompt is read in one pass and from its first token
    on, as `generate` reads it, for models that compute a token otherwise among other tokens.
    """

    def __init__(
        self, model: Generative, *, slots: int, positions: int, vocabulary_size: int, whole: bool = False
    ) -> None:
        model.train(False)
        self.slots, self.positions, self.vocabulary_size = slots, positions, vocabulary_size
        self._model, self._whole = model, whole
        self._device = next(cast(nn.Module, model).parameters()).device
        self._texts = [_Text() for _ in range(slots)]
        self._loads = ExpertLoads(getattr(model, "routers", {}))

    def begin(self, slot: int, seed: int) -> None:
        self._texts[slot].draws.manual_seed(seed)

    def length(self, slot: int) -> int:
        return len(self._texts[slot].tokens) + len(self._texts[slot].later)

    def cut(self, slot: int, length: int) -> None:
        text = self._texts[slot]
        if self._whole:
            text.tokens, text.later, text.cache = [], [], None
        if length >= len(text.tokens):
            return
        if length and isinstance(text.cache, RewindableCache):
            text.cache.rewind(length)
        elif text.cache is not None:
            text.cache, length = None, 0
        del text.tokens[length:]

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        read, text = self._texts[source], self._texts[target]
        text.tokens, text.cache = list(read.tokens), copy.deepcopy(read.cache)
        self.cut(target, length)

    def read(self, slot: int, tokens: Sequence[int]) -> None:
        self._require_room(slot, tokens)
        if self._whole:
            self._texts[slot].later += tokens
        else:
            self._read(slot, tokens)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> list[Chosen]:
        for row in rows:
            self._require_room(row.slot, row.tokens)
        hidden_BD = torch.stack([self._read(row.slot, row.tokens) for row in rows])
        return chosen_of(rows, self._model.logits(hidden_BD), [self._texts[row.slot].draws for row in rows])

    @torch.inference_mode()
    def _read(self, slot: int, tokens: Sequence[int]) -> Tensor:
        """Hidden state [D] of the last token."""
        text = self._texts[slot]
        tokens, text.later = [*text.later, *tokens], []
        if text.cache is None:
            text.cache = self._model.new_cache(1, self.positions)
        one_by_one = text.tokens and text.cache is not None and not isinstance(text.cache, RewindableCache)
        parts = [[token] for token in tokens] if one_by_one else [tokens]
        return [self._pass(text, part) for part in parts][-1]

    def _require_room(self, slot: int, tokens: Sequence[int]) -> None:
        if (wanted := self.length(slot) + len(tokens)) > self.positions:
            raise ValueError(f"a slot holds {self.positions} positions, but {wanted} are needed")

    def _pass(self, text: _Text, tokens: Sequence[int]) -> Tensor:
        text.tokens += tokens
        read = text.tokens if text.cache is None else list(tokens)
        output = self._model(torch.tensor([read], device=self._device), cache=text.cache)
        self._loads.add_routings(output.routings, len(tokens))
        return output.hidden_BSD[0, -1]

    def expert_loads(self) -> Mapping[int, Array]:
        return self._loads.take()
