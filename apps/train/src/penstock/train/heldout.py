"""The figures of a held-out pass of an objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from penstock.eval_suite.metrics import bits_per_byte
from penstock.hooks.contracts import Batch, ObjectiveOutput

Measured = dict[str, tuple[float, float]]


def heldout_metrics(batches: Iterable[Batch], read: Callable[[Batch], ObjectiveOutput]) -> dict[str, float]:
    """All figures of a pass: see `totals`."""
    done = [(batch, read_batch(read(batch))) for batch in batches]
    return totals([batch for batch, _ in done], [result for _, result in done])


def read_batch(output: ObjectiveOutput) -> tuple[float, Measured]:
    """The loss of a batch and its other figures, as plain numbers."""
    measured = {name: (value.item(), weight.item()) for name, (value, weight) in output.measured.items()}
    return output.loss.item(), measured


def totals(batches: Sequence[Batch], read: Sequence[tuple[float, Measured]]) -> dict[str, float]:
    """`heldout/loss` a unit, every figure that the objective measured, and bits per byte where the loss is that of
    text. The sum is taken in the order of the batches."""
    nats, units = sum(loss for loss, _ in read), sum(batch.units for batch in batches)
    metrics = {"heldout/loss": nats / units, **_ratios([measured for _, measured in read])}
    text_bytes = [batch.text_bytes for batch in batches if batch.text_bytes is not None]
    if len(text_bytes) == len(batches) and sum(text_bytes):  # special tokens alone are no text
        metrics["heldout/bits_per_byte"] = bits_per_byte([nats], sum(text_bytes))
    return metrics


def _ratios(measured: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Sum over weight of each figure, under `heldout/`."""
    names = dict.fromkeys(name for each in measured for name in each)
    return {
        f"heldout/{name}": ratio(
            sum(each[name][0] for each in measured if name in each),
            sum(each[name][1] for each in measured if name in each),
        )
        for name in names
    }


def ratio(value: float, weight: float) -> float:
    return value / weight if weight else 0.0
