"""Slot decoders of the good architecture that break one law each; the good one reads its whole texts for each token.

Shape suffixes: B rows, V vocabulary, K likeliest tokens, N chosen experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from penstock.hooks.contracts import Array, Chosen, Row


class Slots:
    def __init__(self, model: Any, slots: int, positions: int) -> None:
        self.model, self.slots, self.positions = model.eval(), slots, positions
        self.vocabulary_size: int = model.vocabulary_size
        self.texts: list[list[int]] = [[] for _ in range(slots)]
        self.draws = [torch.Generator() for _ in range(slots)]
        self.loads = self.no_loads()

    def no_loads(self) -> dict[int, Array]:
        return {layer: np.zeros(router.experts, np.int64) for layer, router in self.model.routers.items()}

    def begin(self, slot: int, seed: int) -> None:
        self.draws[slot].manual_seed(seed)

    def length(self, slot: int) -> int:
        return len(self.texts[slot])

    def cut(self, slot: int, length: int) -> None:
        del self.texts[slot][length:]

    def copy(self, source: int, target: int, length: int) -> None:
        self.texts[target] = self.texts[source][:length]

    def read(self, slot: int, tokens: Sequence[int]) -> None:
        self.logits(slot, tokens)

    def step(self, rows: Sequence[Row]) -> list[Chosen]:
        logits_BV = torch.stack([self.logits(row.slot, row.tokens) for row in rows])
        return [self.chosen(row, logits_V) for row, logits_V in zip(rows, self.computed(logits_BV), strict=True)]

    @torch.no_grad()
    def logits(self, slot: int, tokens: Sequence[int]) -> Tensor:
        """Of the last token, [V]."""
        self.texts[slot] += tokens
        output = self.model(torch.tensor([self.texts[slot]]))
        for layer, routing in output.routings.items():
            expert_N = routing.expert_TK[-self.counted(slot, len(tokens)) :].flatten()
            self.loads[layer] += torch.bincount(expert_N, minlength=len(self.loads[layer])).numpy()
        return self.model.logits(output.hidden_BSD)[0, -1]

    def counted(self, slot: int, fresh: int) -> int:
        """How many of the text's last tokens the loads count."""
        return fresh

    def computed(self, logits_BV: Tensor) -> Tensor:
        return logits_BV

    def chosen(self, row: Row, logits_V: Tensor) -> Chosen:
        token = self.drawn(row, logits_V) if row.draw.temperature else int(logits_V.argmax())
        logprob_V = logits_V.log_softmax(-1)
        value_K, token_K = logprob_V.topk(row.draw.logprobs or 0)
        return Chosen(token, float(logprob_V[token]), tuple(zip(token_K.tolist(), value_K.tolist(), strict=True)))

    def drawn(self, row: Row, logits_V: Tensor) -> int:
        return int(torch.multinomial((logits_V / row.draw.temperature).softmax(-1), 1, generator=self.draws[row.slot]))

    def expert_loads(self) -> Mapping[int, Array]:
        loads, self.loads = self.loads, self.no_loads()
        return loads


class Halved(Slots):
    """Divides its logits by a temperature that nobody asked for."""

    def computed(self, logits_BV: Tensor) -> Tensor:
        return logits_BV / 2


class Leaking(Slots):
    """A row has something of the row beside it."""

    def computed(self, logits_BV: Tensor) -> Tensor:
        return logits_BV + 0.2 * logits_BV.roll(1, 0) - 0.2 * logits_BV


class Uncut(Slots):
    """Forgets the first tokens and not the last."""

    def cut(self, slot: int, length: int) -> None:
        del self.texts[slot][: self.length(slot) - length]


class Referring(Slots):
    """Two slots have one text."""

    def copy(self, source: int, target: int, length: int) -> None:
        self.cut(source, length)
        self.texts[target] = self.texts[source]


class OneStream(Slots):
    """All slots draw from one generator."""

    def begin(self, slot: int, seed: int) -> None:
        self.draws = self.draws[:1] * self.slots
        super().begin(slot, seed)


class Recounting(Slots):
    """Counts all of a text for each token."""

    def counted(self, slot: int, fresh: int) -> int:
        return len(self.texts[slot])
