"""One process, one device: the methods for several ranks do nothing special.

Engines in which every rank holds the whole model (`ddp`) add the sums over ranks to this one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from penstock.hooks.contracts import Batch, ObjectiveOutput, Routing, Schedule
from penstock.train.ahead import routed_ahead
from penstock.train.engines.norm import norm_of_rows, row_norms, scale_down
from penstock.train.optimizer_state import parameter_names, restore, whole_state
from penstock.train.staging import Buffers, Files
from penstock.train.step_module import StepModule

STATE = "engine.pt"
T = TypeVar("T")


class LocalEngine:
    """See `penstock.hooks.contracts.Engine`."""

    rank, ranks = 0, 1

    def __init__(self, *, device: torch.device) -> None:
        self.device = device
        self._buffers = Buffers()

    def prepare(self, module: Any, make_optimizer: Callable[[Any], torch.optim.Optimizer], schedule: Schedule) -> None:
        for parameter in module.parameters():  # one that is transposed in memory may be multiplied with other bits
            parameter.data = parameter.data.contiguous()
        self.module: StepModule = module
        self.schedule = schedule
        self.optimizer = make_optimizer(module)
        self.names = parameter_names(module.model, self.optimizer)
        self.settings = [_without_parameters(group) for group in self.optimizer.param_groups]

    def forward(self, batch: Batch) -> ObjectiveOutput:
        return self._run(batch)

    def routings(self, batches: Iterable[Batch]) -> Iterator[Mapping[int, Routing]]:
        return routed_ahead(self.module, lambda batch: self._run(batch, routings_only=True), batches)

    def evaluate(self, batch: Batch) -> ObjectiveOutput:
        self.module.eval()
        try:
            with self._without_gradients(), torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                return self._run(batch)
        finally:
            self.module.train()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def clip(self, limit: float | None) -> float:
        norm = norm_of_rows(self._row_norms())
        scale_down(self._gradients(), norm, limit)
        return norm

    def step(self, progress: float) -> dict[str, float]:
        factor = self.schedule(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "learning_rate_factor": factor,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def total(self, tensor: Tensor) -> Tensor:
        return tensor.clone()

    def agree(self, flag: bool) -> bool:
        return flag

    def barrier(self) -> None:
        """There are no other ranks to wait for."""

    def share(self, value: T) -> T:
        return value

    def gather(self, value: T) -> list[T]:
        return [value]

    def save(self, folder: Path) -> dict[str, str]:
        return Files(self._files()).write(folder)

    def stage(self) -> Files:
        return Files(self._buffers.copied(self._files()))

    def load(self, folder: Path) -> None:
        self._load_state(_saved_state(folder), folder)

    @contextmanager
    def full_state(self) -> Iterator[Mapping[str, Tensor]]:
        yield cast(Any, self.module.model).state_dict()

    def close(self, error: BaseException | None = None) -> None:
        """There are no other ranks to notify."""

    def _files(self) -> dict[str, Any]:
        """What this rank writes, by the name of the file."""
        return {STATE: self._state()}

    def _run(self, batch: Batch, *, routings_only: bool = False) -> Any:
        return self.module(batch, routings_only=routings_only)

    def _without_gradients(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def _gradients(self) -> list[Tensor]:
        """This rank's part of each gradient, in the order of the parameters."""
        return [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]

    def _row_norms(self) -> Tensor:
        """The norms of all rows of the whole gradient, in the order of the parameters."""
        norms = [row_norms(gradient).flatten() for gradient in self._gradients()]
        return torch.cat(norms) if norms else torch.zeros(0)

    def _state(self) -> dict[str, Any]:
        """`settings` are the optimizer settings from the config; the random state is per rank."""
        return {
            **whole_state(self.optimizer, self.names),
            "settings": self.settings,
            **random_state(),
        }

    def _load_state(self, state: Mapping[str, Any], folder: Path) -> None:
        """Settings changed in the config win; all others are restored from the state, because some optimizers store
        adaptive values there."""
        restore(self.optimizer, self.names, state, folder)
        for group, then, now in zip(self.optimizer.param_groups, state["settings"], self.settings, strict=True):
            group.update({name: value for name, value in now.items() if name not in then or then[name] != value})
        self._load_random_state(state)

    def _load_random_state(self, state: Mapping[str, Any]) -> None:
        torch.set_rng_state(state["torch_rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"][: torch.cuda.device_count()])


def random_state() -> dict[str, Any]:
    """What this process draws random numbers from, on the CPU and on every GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch_rng": torch.get_rng_state(), "cuda_rng": cuda}


def _saved_state(folder: Path) -> dict[str, Any]:
    """Checkpoints from before engines had their own files keep the state in `trainer.pt`."""
    if (folder / STATE).exists():
        return torch.load(folder / STATE, weights_only=True, map_location="cpu")
    return torch.load(folder / "trainer.pt", weights_only=True, map_location="cpu")["engine"]


def _without_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in group.items() if name != "params"})
