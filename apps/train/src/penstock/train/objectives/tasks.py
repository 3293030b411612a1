"""What objectives of tasks have in common: rows with token types, targets, and figures of each example.

A row begins with the token that ends texts, which stands for BERT's [CLS], and each of its texts ends with it.

Shape suffixes: B rows of a batch, S sequence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from penstock.hooks.contracts import Batch, Inputs, ObjectiveOutput
from penstock.train.inputs import what_is_read
from penstock.train.objectives.file_rows import FileRows

Figures = dict[str, tuple[Tensor, Tensor]]
"""Two tensors [B] by the name of a figure: value and weight of each row."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """The tokens of an example, the type and the target of each, and which targets count. `number` is the example's
    place among all, those trained on before those held out."""

    number: int
    tokens: list[int]
    types: list[int]
    targets: list[int]
    counted: list[bool]


class TaskObjective(FileRows[TaskRow]):
    """An objective that trains a `TaskModel` (see `penstock.hooks.contracts.ScoredObjective`)."""

    @property
    @abstractmethod
    def labels(self) -> Sequence[str]:
        """What the head tells apart."""

    @abstractmethod
    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Nats summed over the batch's units."""

    @abstractmethod
    def _figures(self, logits: Tensor, batch: Batch) -> Figures:
        """The figures of each row; the first is the task's."""

    @abstractmethod
    def _units(self, counted_BS: Tensor) -> int:
        """How many units the loss is a mean over."""

    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput:
        logits = model.task_logits(what_is_read(batch.inputs))
        figures = self._figures(logits.detach(), batch)
        measured = {name: (value_B.sum(), weight_B.sum()) for name, (value_B, weight_B) in figures.items()}
        return ObjectiveOutput(self._loss(logits, batch), {}, measured)

    @torch.no_grad()
    def scores(self, model: Any, batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        return self._figures(model.task_logits(what_is_read(batch.inputs)), batch)

    def examples(self) -> Iterator[Batch]:
        return map(self._batch, self._heldout_parts())

    def _tokens(self, row: TaskRow) -> int:
        return len(row.tokens)

    def _batch(self, rows: Sequence[TaskRow]) -> Batch:
        """Padded on the right to the longest row. Types are given if any row has two texts."""
        longest = max(len(row.tokens) for row in rows)
        token_BS = _columns([row.tokens for row in rows], longest, self.data.end_of_text)
        type_BS = _columns([row.types for row in rows], longest, 0)
        counted_BS = _columns([row.counted for row in rows], longest, 0).bool()
        real_BS = torch.arange(longest) < torch.tensor([len(row.tokens) for row in rows])[:, None]
        return Batch(
            Inputs(token_BS, real_BS=real_BS, type_BS=type_BS if bool(type_BS.any()) else None),
            _columns([row.targets for row in rows], longest, 0),
            units=self._units(counted_BS),
            counted_BS=counted_BS,
            extra={"number_B": torch.tensor([row.number for row in rows])},
        )


def _columns(values: Sequence[Sequence[int]], length: int, padding: int) -> Tensor:
    return torch.tensor([[*row, *[padding] * (length - len(row))] for row in values])


def joined(texts: Sequence[list[int]], end_of_text: int, length: int) -> tuple[list[int], list[int]]:
    """(tokens, types) of one or two texts in at most `length` tokens. The longer text is cut first."""
    kept = [len(text) for text in texts]
    while sum(kept) + len(kept) + 1 > length and max(kept):
        kept[kept.index(max(kept))] -= 1
    tokens, types = [end_of_text], [0]
    for number, (text, size) in enumerate(zip(texts, kept, strict=True)):
        tokens += [*text[:size], end_of_text]
        types += [number] * (size + 1)
    return tokens, types
