"""One process, one device: the methods for several ranks do nothing special.

Engines in which every rank holds the whole model (`ddp`) add the sums over ranks to this one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from penstock.hooks.contracts import Batch, ObjectiveOutput, Routing, Schedule
from penstock.train.ahead import routed_ahead
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
        self.module: StepModule = module
        self.schedule = schedule
        self.optimizer = make_optimizer(module)
        self.settings = [_without_parameters(group) for group in self.optimizer.param_groups]

    def forward(self, batch: Batch) -> ObjectiveOutput:
        return self.module(batch)

    def routings(self, batches: Iterable[Batch]) -> Iterator[Mapping[int, Routing]]:
        return routed_ahead(self.module, lambda batch: self.module(batch, routings_only=True), batches)

    def evaluate(self, batch: Batch) -> ObjectiveOutput:
        self.module.eval()
        try:
            with torch.inference_mode(), torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                return self.module(batch)
        finally:
            self.module.train()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def clip(self, limit: float | None) -> float:
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        value = norm.item()
        if limit is not None and value > limit:  # saves a useless pass over all gradients
            parameters = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return value

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
        self._load_state(_saved_state(folder))

    @contextmanager
    def full_state(self) -> Iterator[Mapping[str, Tensor]]:
        yield cast(Any, self.module.model).state_dict()

    def close(self, error: BaseException | None = None) -> None:
        """There are no other ranks to notify."""

    def _files(self) -> dict[str, Any]:
        """What this rank writes, by the name of the file."""
        return {STATE: self._state()}

    def _state(self) -> dict[str, Any]:
        """`settings` are the optimizer settings from the config; the random state is per rank."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "settings": self.settings,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        """Settings changed in the config win; all others are restored from the state, because some optimizers store
        adaptive values there."""
        self.optimizer.load_state_dict(state["optimizer"])
        for group, then, now in zip(self.optimizer.param_groups, state["settings"], self.settings, strict=True):
            group.update({name: value for name, value in now.items() if name not in then or then[name] != value})
        self._load_random_state(state)

    def _load_random_state(self, state: Mapping[str, Any]) -> None:
        torch.set_rng_state(state["torch_rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"][: torch.cuda.device_count()])


def _saved_state(folder: Path) -> dict[str, Any]:
    """Checkpoints from before engines had their own files keep the state in `trainer.pt`."""
    if (folder / STATE).exists():
        return torch.load(folder / STATE, weights_only=True, map_location="cpu")
    return torch.load(folder / "trainer.pt", weights_only=True, map_location="cpu")["engine"]


def _without_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in group.items() if name != "params"})
