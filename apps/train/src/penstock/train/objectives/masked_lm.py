"""Predicts hidden tokens of the prepared text from both sides, as BERT is trained (arXiv 1810.04805, A.1).

Of every row 15 % of the tokens are chosen. Of these 80 % become the mask token, 10 % a random token, and 10 % stay as
they are, so that a model cannot rely on seeing what it is to predict. The choice is a pure function of seed and step.

Shape suffixes: B rows of a batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.data_prep.order import TokenOrder
from penstock.hooks.contracts import Batch, Inputs, LossOutput, ObjectiveOutput, TrainingData
from penstock.hooks.problems import Problem, ProblemError
from penstock.train.inputs import what_is_read
from penstock.train.objectives.file_rows import share_of
from penstock.train.objectives.next_token import heldout_windows

MASKED, RANDOM = 0.8, 0.9  # below the first: masked; between them: random
FIGURE = "nats_per_token"
TRAINED, HELD_OUT = 0, 1  # keys of the draws

Integers = NDArray[np.int64]


class Hidden(NamedTuple):
    """What is read, what it was, and where it is predicted."""

    read_BS: Integers
    target_BS: Integers
    chosen_BS: NDArray[np.bool_]

    def batch(self, rows: slice) -> Batch:
        read_BS, target_BS, chosen_BS = (torch.from_numpy(each[rows]) for each in self)
        return Batch(Inputs(read_BS), target_BS, units=int(chosen_BS.sum()), counted_BS=chosen_BS)


class MaskedTokens:
    """See `penstock.hooks.contracts.Objective`. A row is the token that ends texts, which stands for BERT's [CLS], and
    a window of the text. Special tokens are not chosen."""

    def __init__(self, *, share: float = 0.15, mask_token: int = 15) -> None:
        self.share, self.mask_token = share, mask_token

    def prepare(self, data: TrainingData) -> None:
        """Raises `ProblemError` for a mask token that the text may hold."""
        self.data = data
        self.order = TokenOrder(
            data.train, sequence_length=data.sequence_length - 1, batch_size=data.batch_size, seed=data.seed
        )
        self.words = np.flatnonzero(data.byte_lengths_V)
        if self.mask_token >= data.tokenizer.vocabulary_size or data.byte_lengths_V[self.mask_token]:
            what = f"token {self.mask_token} is no special token of the tokenizer, so the text may hold it"
            fix = "give the id of a reserved token; 5 to 15 are free in a tokenizer that was trained here"
            raise ProblemError(Problem("bad-value", what, "train.objective.mask_token", fix))

    def fingerprint(self) -> dict[str, str]:
        """It reads only the prepared data."""
        return {}

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, parts: int = 1) -> Sequence[Batch]:
        """The draws are those of the whole step, of which each part has its rows."""
        size = self.data.batch_size
        first, rows = share_of(size, rank=rank, ranks=ranks, parts=parts)
        window_BS = np.concatenate([self.order.batch(step, rank=each, ranks=ranks) for each in range(ranks)])
        drawn = self._hidden(window_BS[:, :-1], (self.data.seed, TRAINED, step))
        starts = range(first, first + rows * parts, rows)
        return [drawn.batch(slice(start, start + rows)) for start in starts]

    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput:
        output = model.masked_token_loss(what_is_read(batch.inputs), batch.target_BS, batch.counted_BS)
        value_B, weight_B = _nats(output, batch)
        return ObjectiveOutput(output.loss, output.routings, {FIGURE: (value_B.sum(), weight_B.sum())})

    @property
    def labels(self) -> Sequence[str]:
        """None: the head is that of tokens."""
        return ()

    @torch.no_grad()
    def scores(self, model: Any, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        output = model.masked_token_loss(what_is_read(batch.inputs), batch.target_BS, batch.counted_BS)
        return {FIGURE: _nats(output, batch)}

    def examples(self) -> Iterator[Batch]:
        """Every held-out window."""
        return self._windows(replace(self.data, heldout_tokens=self.data.heldout.tokens))

    def heldout(self) -> Iterator[Batch]:
        """The windows of an evaluation, spread evenly over the held-out text, with the same tokens hidden each time."""
        return self._windows(self.data)

    def _windows(self, data: TrainingData) -> Iterator[Batch]:
        window_WS, size = heldout_windows(data)[:, : data.sequence_length - 1], data.batch_size
        drawn = self._hidden(window_WS, (self.data.seed, HELD_OUT))
        for first in range(0, len(window_WS), size):
            yield drawn.batch(slice(first, first + size))

    def _hidden(self, window_BS: Integers, key: tuple[int, ...]) -> Hidden:
        """Windows with a share of their tokens hidden, drawn with a key."""
        target_BS = np.pad(window_BS, ((0, 0), (1, 0)), constant_values=self.data.end_of_text)
        draw = np.random.default_rng(key)
        place_BS, kind_BS = draw.random((2, *target_BS.shape))
        other_BS = self.words[draw.integers(0, len(self.words), target_BS.shape)]
        chosen_BS = self._chosen(target_BS, place_BS)
        other_BS = np.where(kind_BS < MASKED, self.mask_token, np.where(kind_BS < RANDOM, other_BS, target_BS))
        return Hidden(np.where(chosen_BS, other_BS, target_BS), target_BS, chosen_BS)

    def _chosen(self, target_BS: Integers, place_BS: NDArray[np.float64]) -> NDArray[np.bool_]:
        """A share of the words of each row, at least one: those with the lowest draws."""
        word_BS = self.data.byte_lengths_V[target_BS] > 0
        wanted_B1 = np.maximum(1, np.rint(self.share * word_BS.sum(1, keepdims=True)))
        rank_BS = np.where(word_BS, place_BS, np.inf).argsort(1).argsort(1)
        return (rank_BS < wanted_B1) & word_BS


def _nats(output: LossOutput, batch: Batch) -> tuple[Tensor, Tensor]:
    """Nats and number of the hidden tokens of each row."""
    assert batch.counted_BS is not None
    return output.nll_BS.sum(-1), batch.counted_BS.sum(-1).to(output.nll_BS.dtype)
