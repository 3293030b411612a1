"""Engines that break one law each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from broken.described import described
from penstock.hooks.contracts import Batch


class Good:
    """One process."""

    rank, ranks = 0, 1

    def __init__(self, *, device: torch.device) -> None:
        self.device = device

    def prepare(self, module: Any, make_optimizer: Any, schedule: Any) -> None:
        self.module, self.optimizer, self.schedule = module, make_optimizer(module), schedule

    def forward(self, batch: Batch) -> Any:
        return self.module(batch)

    def routings(self, batches: Any) -> Iterator[Any]:
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        with torch.random.fork_rng(devices=[]):
            for batch in batches:
                with torch.no_grad():
                    yield self.module(batch, routings_only=True)
        self.module.load_state_dict(buffers, strict=False)

    def evaluate(self, batch: Batch) -> Any:
        self.module.eval()
        try:
            with torch.no_grad():
                return self.module(batch)
        finally:
            self.module.train()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def clip(self, limit: float | None) -> float:
        return torch.nn.utils.clip_grad_norm_(self.module.parameters(), limit or float("inf")).item()

    def step(self, progress: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule(progress)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def total(self, tensor: Tensor) -> Tensor:
        return tensor.clone()

    def agree(self, flag: bool) -> bool:
        return flag

    def barrier(self) -> None: ...

    def share(self, value: Any) -> Any:
        return value

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def save(self, folder: Path) -> dict[str, str]:
        torch.save({"optimizer": self.optimizer.state_dict(), "random": torch.get_rng_state()}, folder / "state.pt")
        return {"state.pt": hashlib.sha256((folder / "state.pt").read_bytes()).hexdigest()}

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt")
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])

    @contextmanager
    def full_state(self) -> Iterator[Mapping[str, Tensor]]:
        yield self.module.model.state_dict()

    def close(self, error: BaseException | None = None) -> None: ...


class Scaling(Good):
    def forward(self, batch: Batch) -> Any:
        output = super().forward(batch)
        return type(output)(output.loss * 2, output.routings)


class Latest(Good):
    """Keeps the gradient of the last micro-batch alone."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.optimizer.zero_grad()
        loss.backward()


class Bounded(Good):
    """Returns the norm that is left."""

    def clip(self, limit: float | None) -> float:
        norm = super().clip(limit)
        return norm if limit is None else min(norm, limit)


class Steady(Good):
    def step(self, progress: float) -> dict[str, float]:
        return super().step(0.0)


class Restless(Good):
    """Evaluates in training mode."""

    def evaluate(self, batch: Batch) -> Any:
        with torch.no_grad():
            return self.module(batch)


class Repeating(Good):
    """Draws the same for each micro-batch."""

    def routings(self, batches: Any) -> Iterator[Any]:
        for batch in batches:
            yield from super().routings([batch])


class Forgetful(Good):
    def load(self, folder: Path) -> None:
        """Goes on with the random numbers at hand."""


class Copying(Good):
    @contextmanager
    def full_state(self) -> Iterator[Mapping[str, Tensor]]:
        yield {name: value.clone() for name, value in self.module.model.state_dict().items()}


class Rounding(Good):
    def total(self, tensor: Tensor) -> Tensor:
        return tensor.float()


of = described("engine", "An engine that breaks one law")


def contract_2(*given: Any) -> Any:
    return of(*given, contract=2)


GOOD = contract_2(Good)
BROKEN = {
    "engine/forward-is-the-module-s": contract_2(Scaling),
    "engine/gradients-of-micro-batches-add-up": contract_2(Latest),
    "engine/clip-returns-the-norm-and-bounds-it": contract_2(Bounded),
    "engine/a-step-follows-the-schedule": contract_2(Steady),
    "engine/an-evaluation-leaves-no-trace": contract_2(Restless),
    "engine/routings-are-those-of-the-passes-that-follow": contract_2(Repeating),
    "engine/what-is-saved-continues": contract_2(Forgetful),
    "engine/the-full-state-is-the-model-s": contract_2(Copying),
    "engine/one-rank-agrees-with-itself": contract_2(Rounding),
    "engine/two-ranks-train-as-one": contract_2(Good, frozenset({"several-ranks"})),
}
