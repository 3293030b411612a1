"""Predicts every token from those before it, in windows of the prepared tokens.

Shape suffixes: W windows, B windows of a batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from penstock.data_prep.order import TokenOrder
from penstock.hooks.contracts import Batch, Inputs, LanguageModel, ObjectiveOutput, TrainingData
from penstock.train.inputs import what_is_read


class NextToken:
    """See `penstock.hooks.contracts.Objective`."""

    def prepare(self, data: TrainingData) -> None:
        self.data = data
        self.order = TokenOrder(
            data.train, sequence_length=data.sequence_length, batch_size=data.batch_size, seed=data.seed
        )

    def fingerprint(self) -> dict[str, str]:
        """It reads only the prepared data."""
        return {}

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, parts: int = 1) -> Sequence[Batch]:
        cut = (self.order.batch(step, rank=rank, ranks=ranks, part=part, parts=parts) for part in range(parts))
        return [self._batch(window_BS) for window_BS in cut]

    def loss(self, model: LanguageModel, batch: Batch) -> ObjectiveOutput:
        return token_loss(model, batch)

    def heldout(self) -> Iterator[Batch]:
        """The windows of an evaluation, spread evenly over the held-out text."""
        window_WS = heldout_windows(self.data)
        for first in range(0, len(window_WS), self.data.batch_size):
            yield self._batch(window_WS[first : first + self.data.batch_size])

    def _batch(self, window_BS: np.ndarray) -> Batch:
        target_BS = window_BS[:, 1:]
        tokens = torch.from_numpy(window_BS)
        text_bytes = int(self.data.byte_lengths_V[target_BS].sum())
        return Batch(Inputs(tokens[:, :-1]), tokens[:, 1:], target_BS.size, text_bytes=text_bytes)


def token_loss(model: LanguageModel, batch: Batch) -> ObjectiveOutput:
    """The summed nats of a batch's counted targets."""
    output = model.next_token_loss(what_is_read(batch.inputs), batch.target_BS, batch.counted_BS)
    return ObjectiveOutput(output.loss, output.routings)


def heldout_windows(data: TrainingData) -> np.ndarray:
    """int64 [W, S + 1]."""
    split, length = data.heldout, data.sequence_length
    windows = (split.tokens - 1) // length
    wanted = min(windows, max(1, data.heldout_tokens // length))
    starts = [number * windows // wanted * length for number in range(wanted)]
    return np.stack([split.slice(start, start + length + 1) for start in starts])
