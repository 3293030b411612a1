"""What each rank of a run would do and hold, before any is started."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from penstock.train.checks import Planned
from penstock.train.launch import threads_of
from penstock.train.ranks import micro_batches


@dataclass(frozen=True, slots=True)
class Share:
    """A rank's part of each step, and the memory of the parameters that it holds (not of gradients, optimizer or
    activations)."""

    rank: int
    micro_batches: int
    micro_batch_size: int
    threads: int
    parameter_bytes: int


def shares_of_ranks(planned: Planned, ranks: int) -> list[Share]:
    """Raises `ProblemError` if the batch does not divide over the ranks."""
    train = planned.config.train
    parts = micro_batches(train, ranks)
    sharded = "sharded" in train.engine.entry.component.capabilities
    tensors = list(dict.fromkeys(planned.composition.module.parameters()))  # shared ones once
    return [
        Share(
            rank=rank,
            micro_batches=parts,
            micro_batch_size=train.batch_size // (ranks * parts),
            threads=threads_of(ranks),
            parameter_bytes=sum(_held(each, rank, ranks if sharded else 1) for each in tensors),
        )
        for rank in range(ranks)
    ]


def _held(tensor: Tensor, rank: int, ranks: int) -> int:
    if ranks == 1 or tensor.ndim == 0 or len(tensor) == 0:
        return tensor.nbytes
    return tensor.nbytes // len(tensor) * _rows(len(tensor), rank, ranks)


def _rows(rows: int, rank: int, ranks: int) -> int:
    """Rows of a rank where a sharded engine cuts a tensor: whole chunks first, as `torch.chunk`.

    >>> [_rows(5, rank, 4) for rank in range(4)]
    [2, 2, 1, 0]
    """
    each = -(-rows // ranks)
    return max(0, min(each, rows - rank * each))
