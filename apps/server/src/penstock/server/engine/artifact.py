"""Slots of an artifact, decoded by the compiled library: one text is computed after the other, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from penstock.hooks.contracts import Array, Chosen, Row
from penstock.hooks.problems import ProblemError
from penstock.quant158.decoder import Decoder, Text


class ArtifactSlots:
    """A `penstock.hooks.contracts.SlotDecoder`. Where log-probabilities are asked for, a token is read twice."""

    def __init__(self, decoder: Decoder, *, slots: int, positions: int) -> None:
        self.slots = slots
        self.positions = min(positions, decoder.description.positions)
        self.vocabulary_size = decoder.description.vocabulary
        self._texts: list[Text] = [decoder.text(self.positions) for _ in range(slots)]
        self._tokens: list[list[int]] = [[] for _ in range(slots)]

    def begin(self, slot: int, seed: int) -> None:
        self._texts[slot].seed(seed)

    def length(self, slot: int) -> int:
        return len(self._tokens[slot])

    def cut(self, slot: int, length: int) -> None:
        del self._tokens[slot][length:]
        self._texts[slot].cut(length)

    def copy(self, source: int, target: int, length: int) -> None:
        """The library copies no text: the target is empty."""
        self.cut(target, 0)

    def read(self, slot: int, tokens: Sequence[int]) -> None:
        if self.length(slot) + len(tokens) > self.positions:
            wanted = self.length(slot) + len(tokens)
            raise ValueError(f"a slot holds {self.positions} positions, but {wanted} are needed")
        self._texts[slot].read(tokens)
        self._tokens[slot] += tokens

    def step(self, rows: Sequence[Row]) -> list[Chosen]:
        return [self._chosen(row) for row in rows]

    def _chosen(self, row: Row) -> Chosen:
        text, draw = self._texts[row.slot], row.draw
        if len(row.tokens) > 1:
            self.read(row.slot, row.tokens[:-1])
        last = row.tokens[-1:]
        logits_V = text.logits(last)[-1] if draw.logprobs is not None else None
        if logits_V is not None:
            text.cut(text.length - 1)
        try:
            token = text.next(last, temperature=draw.temperature, top_k=draw.top_k, top_p=draw.top_p)
        except ProblemError as error:
            if error.problems[0].code != "not-finite":
                raise
            return Chosen(None)
        self._tokens[row.slot] += last
        return Chosen(token) if logits_V is None else _told(token, logits_V, draw.logprobs or 0)

    def expert_loads(self) -> Mapping[int, Array]:
        return {}


def _told(token: int, logits_V: np.ndarray, count: int) -> Chosen:
    logprob_V = logits_V.astype(np.float64) - np.logaddexp.reduce(logits_V.astype(np.float64))
    likeliest = np.argsort(-logprob_V, kind="stable")[:count]
    return Chosen(token, float(logprob_V[token]), tuple((int(each), float(logprob_V[each])) for each in likeliest))
