"""Many texts at once, each in a slot: what a server steps.

Shape suffixes: B rows, S new positions, D model width, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from penstock.hooks.contracts import Array, Chosen, Draw, Inputs, ModelOutput, Router, Row
from penstock.moe_core.layers.generation import drawn
from penstock.moe_core.layers.slot_loads import ExpertLoads
from penstock.moe_core.layers.slots import SlotCache

FastPass = Callable[[Tensor, SlotCache], tuple[Tensor, Mapping[int, Tensor]]]
"""Of new tokens [B, S] of the selected slots: hidden states [B, D] of the last, and the experts of each layer, of any
shape. It fills the cache, but does not advance it."""


class Served(Protocol):
    """What `ModelSlots` needs of a model."""

    vocabulary_size: int

    def train(self, mode: bool = True) -> Any: ...

    def __call__(self, inputs: Inputs | Tensor, *, cache: Any = None) -> ModelOutput: ...

    def logits(self, hidden_BSD: Tensor) -> Tensor: ...

    @property
    def routers(self) -> Mapping[int, Router]: ...


class ModelSlots:
    """A `penstock.hooks.contracts.SlotDecoder`: a pass reads many tokens of one row, or one token of many. `fast`
    computes what the model's own pass does."""

    def __init__(self, model: Served, cache: SlotCache, fast: FastPass | None = None) -> None:
        model.train(False)
        self.slots, self.positions = len(cache.lengths), cache.capacity
        self.vocabulary_size = model.vocabulary_size
        self._model, self._cache, self._fast = model, cache, fast
        self._device = cache.slot_B.device
        self._draws = [torch.Generator().manual_seed(0) for _ in range(self.slots)]
        self._loads = ExpertLoads(model.routers)

    def begin(self, slot: int, seed: int) -> None:
        self._draws[slot].manual_seed(seed)

    def length(self, slot: int) -> int:
        return self._cache.lengths[slot]

    def cut(self, slot: int, length: int) -> None:
        self._cache.cut(slot, length)

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        self._cache.copy(source, target, length)

    @torch.inference_mode()
    def read(self, slot: int, tokens: Sequence[int]) -> None:
        self._read(slot, tokens)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> list[Chosen]:
        hidden: dict[int, Tensor] = {row.slot: self._read(row.slot, row.tokens) for row in rows if len(row.tokens) > 1}
        short = sorted((row for row in rows if len(row.tokens) == 1), key=lambda row: row.slot)
        if short:
            self._cache.select([row.slot for row in short])
            token_B1 = torch.tensor([[row.tokens[0]] for row in short], device=self._device)
            hidden |= dict(zip((row.slot for row in short), self._pass(token_B1), strict=True))
        logits_BV = self._model.logits(torch.stack([hidden[row.slot] for row in rows]))
        return chosen_of(rows, logits_BV, [self._draws[row.slot] for row in rows])

    def _read(self, slot: int, tokens: Sequence[int]) -> Tensor:
        """Hidden state [D] of the last token."""
        self._cache.select([slot])
        return self._pass(torch.tensor([list(tokens)], device=self._device))[0]

    def _pass(self, token_BS: Tensor) -> Tensor:
        """Hidden states [B, D] of the last tokens."""
        if self._fast is not None:
            hidden_BD, experts = self._fast(token_BS, self._cache)
            self._cache.advance(token_BS.shape[1])
            for layer, chosen in experts.items():
                self._loads.add(layer, chosen)
            return hidden_BD
        output = self._model(token_BS, cache=self._cache)
        self._loads.add_routings(output.routings, token_BS.numel())
        return output.hidden_BSD[:, -1]

    def expert_loads(self) -> Mapping[int, Array]:
        return self._loads.take()


def chosen_of(rows: Sequence[Row], logits_BV: Tensor, draws: Sequence[torch.Generator]) -> list[Chosen]:
    """The next token of each row, of its logits, drawn with its own generator."""
    largest_B, likeliest_B = logits_BV.max(dim=-1)
    finite = [math.isfinite(each) for each in largest_B.tolist()]
    token: list[int] = likeliest_B.tolist()
    for draw, members in _drawing(rows, finite).items():
        share = [torch.rand(1, 1, dtype=torch.float64, generator=draws[index]) for index in members]
        chosen_B = drawn(logits_BV[members], draw.temperature, draw.top_k, draw.top_p, torch.cat(share))
        for index, each in zip(members, chosen_B.tolist(), strict=True):
            token[index] = each
    return [
        _told(row.draw, token[index], logits_BV[index]) if finite[index] else Chosen(None)
        for index, row in enumerate(rows)
    ]


def _drawing(rows: Sequence[Row], finite: Sequence[bool]) -> dict[Draw, list[int]]:
    """Rows that draw alike, by what they draw with."""
    groups: dict[Draw, list[int]] = {}
    for index, row in enumerate(rows):
        if row.draw.temperature > 0 and finite[index]:
            groups.setdefault(row.draw, []).append(index)
    return groups


def _told(draw: Draw, token: int, logits_V: Tensor) -> Chosen:
    if draw.logprobs is None:
        return Chosen(token)
    logprob_V = logits_V.log_softmax(dim=-1)
    if not draw.logprobs:
        return Chosen(token, float(logprob_V[token]))
    value_K, token_K = logprob_V.topk(min(draw.logprobs, len(logprob_V)))
    return Chosen(token, float(logprob_V[token]), tuple(zip(token_K.tolist(), value_K.tolist(), strict=True)))
