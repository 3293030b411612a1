"""Objectives that break one law each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from broken.described import described
from penstock.hooks.contracts import Batch, Inputs, ObjectiveOutput, TrainingData


class Good:
    """The next token, of which every second one counts."""

    def prepare(self, data: TrainingData) -> None:
        self.data = data
        self.windows = (data.train.tokens - 1) // data.sequence_length

    def fingerprint(self) -> dict[str, str]:
        return {}

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, parts: int = 1) -> Sequence[Batch]:
        size = self.data.batch_size // ranks // parts
        first = step * self.data.batch_size + rank * parts * size
        return [self.batch(range(start, start + size)) for start in range(first, first + parts * size, size)]

    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput:
        output = model.next_token_loss(batch.inputs.token_BS, batch.target_BS, batch.counted_BS)
        measured = {"nats": (output.nll_BS.sum(), torch.tensor(batch.units))}
        return ObjectiveOutput(output.loss, output.routings, measured)

    def heldout(self) -> Iterator[Batch]:
        yield self.batch(range(4))

    def batch(self, numbers: Sequence[int]) -> Batch:
        length = self.data.sequence_length
        starts = [number % self.windows * length for number in numbers]
        rows = [torch.as_tensor(self.data.train.slice(start, start + length + 1)) for start in starts]
        window_BS = torch.stack(rows)
        counted_BS = (torch.arange(length) % 2 == 0).expand(len(rows), -1)
        return Batch(Inputs(window_BS[:, :-1]), window_BS[:, 1:], int(counted_BS.sum()), counted_BS)


class Lump(Good):
    """Gives a rank all of its rows at once."""

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, parts: int = 1) -> Sequence[Batch]:
        return super().batches(step, rank=rank, ranks=ranks)


class Alike(Good):
    """Gives every rank the same rows."""

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, parts: int = 1) -> Sequence[Batch]:
        return super().batches(step, ranks=ranks, parts=parts)


class Counting(Good):
    """Goes on from what was asked last; where one step is asked often, it is the same."""

    last = -1
    extra = 0

    def batches(self, step: int, *, rank: int = 0, ranks: int = 1, parts: int = 1) -> Sequence[Batch]:
        self.extra += step < self.last
        self.last = step
        return super().batches(step + self.extra, rank=rank, ranks=ranks, parts=parts)


class Drawing(Good):
    def heldout(self) -> Iterator[Batch]:
        torch.rand(1)
        return super().heldout()


class Detached(Good):
    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput:
        output = super().loss(model, batch)
        return replace(output, loss=output.loss.detach())


class Mean(Good):
    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput:
        output = super().loss(model, batch)
        return replace(output, loss=output.loss / batch.units)


class Unmasked(Good):
    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput:
        return super().loss(model, replace(batch, counted_BS=None))


class Evaluating(Good):
    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput:
        return super().loss(model.eval(), batch)


class Exhausted(Good):
    """Has its held-out batches once."""

    left = 1

    def heldout(self) -> Iterator[Batch]:
        while self.left:
            self.left -= 1
            yield self.batch(range(4))


class Overcounting(Good):
    """A label for each text, of which its figure counts every one twice."""

    labels = ("even", "odd")

    def batch(self, numbers: Sequence[int]) -> Batch:
        batch = super().batch(numbers)
        first_BS = (torch.arange(self.data.sequence_length) == 0).expand(len(numbers), -1)
        return replace(batch, target_BS=batch.target_BS % 2, units=len(numbers), counted_BS=first_BS)

    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput:
        logits_BL = model.task_logits(batch.inputs)
        loss = torch.nn.functional.cross_entropy(logits_BL, batch.target_BS[:, 0], reduction="sum")
        right_B = logits_BL.argmax(-1) == batch.target_BS[:, 0]
        return ObjectiveOutput(loss, {}, {"accuracy": (right_B.sum(), torch.tensor(len(right_B)))})

    def scores(self, model: Any, batch: Batch) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        right_B = model.task_logits(batch.inputs).argmax(-1) == batch.target_BS[:, 0]
        return {"accuracy": (right_B, torch.full_like(right_B, 2, dtype=torch.int64))}

    def examples(self) -> Iterator[Batch]:
        return self.heldout()


of = described("objective", "An objective that breaks one law")
GOOD = of(Good)
BROKEN = {
    "objective/a-step-has-batches-of-every-rank-and-part": of(Lump),
    "objective/the-cut-changes-no-row": of(Alike),
    "objective/a-step-is-a-function-of-its-number": of(Counting),
    "objective/no-global-random-numbers-are-drawn": of(Drawing),
    "objective/the-loss-is-finite-and-has-a-gradient": of(Detached),
    "objective/the-loss-is-a-sum": of(Mean),
    "objective/a-target-that-does-not-count-changes-nothing": of(Unmasked),
    "objective/the-model-stays-as-it-is": of(Evaluating),
    "objective/heldout-batches-are-the-same-each-time": of(Exhausted),
    "objective/it-trains-a-masked-language-model": of(Good, frozenset({"masked-lm"})),
    "objective/it-trains-a-classifier-of-texts": of(Good, frozenset({"classification"})),
    "objective/it-trains-a-tagger-of-tokens": of(Good, frozenset({"tags"})),
    "objective/it-trains-a-finder-of-spans": of(Good, frozenset({"spans"})),
    "objective/figures-are-sums-over-examples": of(Overcounting, frozenset({"classification"})),
}
