"""Each rank holds the whole model and trains on a share of the batch: gradients are summed over ranks.

The gradients themselves are summed once per step, after the last micro-batch. With two ranks the sum is a + b for each
number, just as one process adds the gradients of two micro-batches, so the bits are the same. (torch's
DistributedDataParallel averages, which is exact only for powers of two. By default it also overwrites every rank's
buffers with rank 0's, which breaks routers that learn outside the gradient.)

torchrun starts the ranks and numbers them: `torchrun --nproc-per-node 2 -m penstock.cli train RUN.yaml
train.engine=ddp`. All of them see the same run directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from penstock.hooks.contracts import Schedule
from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.train.engines.local import STATE, LocalEngine

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun
BUCKET = 2**24  # numbers summed at once: 64 MB of fp32, the extra memory of the sum
T = TypeVar("T")


class DataParallelEngine(LocalEngine):
    """See `penstock.hooks.contracts.Engine`. `timeout` is how many minutes a rank waits for the others."""

    def __init__(self, *, device: torch.device, timeout: float = 60) -> None:
        _require_torchrun()
        super().__init__(device=_of_this_rank(device))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        wait = timedelta(minutes=timeout)
        self.store, self.rank, self.ranks = next(iter(rendezvous("env://", timeout=wait)))
        dist.init_process_group(
            backend, store=self.store, rank=self.rank, world_size=self.ranks, timeout=wait, device_id=None
        )

    def prepare(self, module: Any, make_optimizer: Callable[[Any], torch.optim.Optimizer], schedule: Schedule) -> None:
        """All ranks start with the weights of rank 0; from here on, each draws its own random numbers."""
        with self._together():
            for tensor in chain(module.parameters(), module.buffers()):
                dist.broadcast(tensor.detach(), src=0)
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
        self.agree(False)

    def share(self, value: T) -> T:
        values = [value]
        with self._together():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.ranks
        with self._together():
            dist.all_gather_object(values, value)
        return values

    def close(self, error: BaseException | None = None) -> None:
        if error is not None and not _is_echo(error):
            with suppress(RuntimeError):  # the process that held the store may be gone
                self.store.set("error", f"rank {self.rank}: {type(error).__name__}: {error}")
        dist.destroy_process_group()

    def _files(self) -> dict[str, Any]:
        """Rank 0 writes what all ranks share, and the random state of each."""
        random_states = self.gather(torch.get_rng_state())
        return {STATE: {**self._state(), "torch_rng_of_ranks": random_states}} if self.rank == 0 else {}

    def _load_random_state(self, state: Mapping[str, Any]) -> None:
        """A rank that is new to the run continues with its own random numbers."""
        states: Sequence[Tensor] = state.get("torch_rng_of_ranks", [state["torch_rng"]])
        if self.rank < len(states):
            super()._load_random_state({**state, "torch_rng": states[self.rank]})

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
        with self._together():
            dist.all_reduce(tensor)
        return tensor

    @contextmanager
    def _together(self) -> Iterator[None]:
        """A call that waits for all ranks; raises a `ProblemError` that says why if one never arrives."""
        try:
            yield
        except RuntimeError as error:
            why = ""
            with suppress(RuntimeError):
                if self.store.check(["error"]):
                    why = f" ({self.store.get('error').decode(errors='replace')})"
            what = f"another rank exited{why}"
            fix = "fix the error on that rank, then continue from the last checkpoint with --resume"
            raise ProblemError(Problem("rank-lost", what, f"rank {self.rank}", fix), ExitCode.FAILED) from error


def _is_echo(error: BaseException) -> bool:
    """Whether the error only says that another rank failed."""
    return isinstance(error, ProblemError) and any(problem.code == "rank-lost" for problem in error.problems)


def _require_torchrun() -> None:
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        what = f"engine 'ddp' needs the environment variables that torchrun sets; missing: {', '.join(missing)}"
        fix = "start it with `torchrun --nproc-per-node 2 -m penstock.cli train ...`, or use train.engine=local"
        raise ProblemError(Problem("no-ranks", what, "train.engine", fix))


def _of_this_rank(device: torch.device) -> torch.device:
    """This rank's GPU, which becomes the current device; any other device is returned unchanged."""
    if device.type != "cuda" or device.index is not None:
        return device
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    return own


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
