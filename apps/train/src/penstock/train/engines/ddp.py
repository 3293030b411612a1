"""Each rank holds the whole model and trains on a share of the batch: gradients are summed over ranks.

The gradients themselves are summed once per step, after the last micro-batch. With two ranks the sum is a + b for each
number, just as one process adds the gradients of two micro-batches, so the bits are the same. (torch's
DistributedDataParallel averages, which is exact only for powers of two. By default it also overwrites every rank's
buffers with rank 0's, which breaks routers that learn outside the gradient.)

`penstock train RUN.yaml --ranks 2` starts the ranks on one machine, torchrun on several. All of them see the same run
directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from penstock.hooks.contracts import Schedule
from penstock.train.engines.local import STATE, LocalEngine, random_state
from penstock.train.group import RankGroup

BUCKET = 2**24  # numbers summed at once: 64 MB of fp32, the extra memory of the sum
_SENT = {1: torch.uint8, 2: torch.float16, 4: torch.int32, 8: torch.int64}  # by bytes
T = TypeVar("T")


class DataParallelEngine(LocalEngine):
    """See `penstock.hooks.contracts.Engine`, and `RankGroup` for the minutes."""

    def __init__(self, *, device: torch.device, timeout: float = 60, stacks_after: float = 5) -> None:
        self.group = RankGroup(device, timeout=timeout, stacks_after=stacks_after)
        super().__init__(device=self.group.device)
        self.rank, self.ranks = self.group.rank, self.group.ranks

    def prepare(self, module: Any, make_optimizer: Callable[[Any], torch.optim.Optimizer], schedule: Schedule) -> None:
        """All ranks start with the weights of rank 0; from here on, each draws its own random numbers."""
        self.group.wait_for_all()  # rank 0 verifies the data before
        with self.group.together():
            for tensor in chain(module.parameters(), module.buffers()):
                _broadcast(tensor.detach())
        if self.rank:
            torch.manual_seed(torch.initial_seed() + self.rank)
        super().prepare(module, make_optimizer, schedule)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        super().backward(loss, last=last)
        if last:
            self._sum_gradients()

    def total(self, tensor: Tensor) -> Tensor:
        return self._summed(tensor.detach().clone())

    def agree(self, flag: bool) -> bool:
        return bool(self.total(torch.tensor([flag], dtype=torch.int64, device=self.device)).item())

    def barrier(self) -> None:
        self.group.wait_for_all()

    def share(self, value: T) -> T:
        values = [value]
        self.group.wait_for_all()
        with self.group.together():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.ranks
        with self.group.together():
            dist.all_gather_object(values, value)
        return values

    def close(self, error: BaseException | None = None) -> None:
        self.group.close(error)

    def _files(self) -> dict[str, Any]:
        """Rank 0 writes what all ranks share, and the random state of each."""
        of_ranks = self.gather(random_state())
        shared = {f"{name}_of_ranks": [each[name] for each in of_ranks] for name in of_ranks[0]}
        return {STATE: {**self._state(), **shared}} if self.rank == 0 else {}

    def _load_random_state(self, state: Mapping[str, Any]) -> None:
        if own := random_state_of(state, self.rank):
            super()._load_random_state(own)

    def _sum_gradients(self) -> None:
        """Leaves the same gradients on all ranks. A gradient that is None on some ranks counts as 0 there. One that is
        None on all ranks stays None, as in one process, and optimizers skip the parameter."""
        parameters = [parameter for parameter in cast(nn.Module, self.module).parameters() if parameter.requires_grad]
        there = torch.tensor([parameter.grad is not None for parameter in parameters], device=self.device)
        anywhere = self.total(there.long()).tolist()
        held = [parameter for parameter, ranks in zip(parameters, anywhere, strict=True) if ranks]
        for parameter in held:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([cast(Tensor, parameter.grad) for parameter in held]):
            summed = self._summed(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, part in zip(bucket, summed.split([each.numel() for each in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def _summed(self, tensor: Tensor) -> Tensor:
        with self.group.together():
            dist.all_reduce(tensor)
        return tensor


def random_state_of(state: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """A rank's part of a saved random state; empty for a rank that is new to the run, which goes on with its own
    numbers. Early checkpoints have the GPUs of rank 0 alone."""
    of_ranks = {name: state.get(f"{name}_of_ranks", [state[name]]) for name in random_state()}
    known = rank < len(of_ranks["torch_rng"])
    return {name: each[min(rank, len(each) - 1)] for name, each in of_ranks.items()} if known else {}


def _broadcast(tensor: Tensor) -> None:
    """Overwrites a tensor of any type and layout with that of rank 0. Gloo refuses fp8 and some integers, so they are
    sent as a type of the same size. It would write past the memory of an expanded tensor, so each number goes once."""
    for dimension, stride in enumerate(tensor.stride()):
        tensor = tensor.narrow(dimension, 0, 1) if stride == 0 and tensor.shape[dimension] else tensor
    memory = tensor.view(_SENT.get(tensor.itemsize, tensor.dtype))
    dense = memory.contiguous()
    dist.broadcast(dense, src=0)
    if dense is not memory:
        memory.copy_(dense)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one dtype, up to `BUCKET` numbers at once; a larger one gets its own bucket."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = bucket and sum(each.numel() for each in bucket) + gradient.numel() > BUCKET
        if full or (bucket and bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
