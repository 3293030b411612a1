"""Engines that break one law each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from broken.described import described
from penstock.hooks.contracts import Batch
from penstock.hooks.problems import Problem, ProblemError


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


class Late(Good):
    """Stages nothing: what is written is the state of then."""

    def stage(self) -> Any:
        return SimpleNamespace(write=self.save)


class Copying(Good):
    @contextmanager
    def full_state(self) -> Iterator[Mapping[str, Tensor]]:
        yield {name: value.clone() for name, value in self.module.model.state_dict().items()}


class Rounding(Good):
    def total(self, tensor: Tensor) -> Tensor:
        return tensor.float()


class Together(Good):
    """Several ranks, each with the whole model, by plain collectives."""

    def __init__(self, *, device: torch.device) -> None:
        super().__init__(device=device)
        if "MASTER_PORT" not in os.environ:
            raise ProblemError(Problem("no-ranks", "start it with torchrun"))
        self.store, self.rank, self.ranks = next(iter(rendezvous("env://")))
        dist.init_process_group("gloo", store=self.store, rank=self.rank, world_size=self.ranks)

    def prepare(self, module: Any, make_optimizer: Any, schedule: Any) -> None:
        torch.manual_seed(self.rank)
        super().prepare(module, make_optimizer, schedule)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        super().backward(loss, last=last)
        if last:
            for parameter in self.module.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self.add(parameter.grad)

    def add(self, tensor: Tensor) -> None:
        with self.waiting():
            dist.all_reduce(tensor)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ProblemError(Problem("rank-lost", f"another rank is gone: {self.told()}")) from error

    def told(self) -> str:
        with suppress(RuntimeError):
            return self.store.get("error").decode() if self.store.check(["error"]) else ""
        return ""

    def total(self, tensor: Tensor) -> Tensor:
        result = tensor.clone()
        self.add(result)
        return result

    def agree(self, flag: bool) -> bool:
        return bool(self.total(torch.tensor(int(flag))))

    def barrier(self) -> None:
        self.agree(False)

    def gather(self, value: Any) -> list[Any]:
        values = [None] * self.ranks
        with self.waiting():
            dist.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        return self.gather(value)[0]

    def save(self, folder: Path) -> dict[str, str]:
        name = f"rank-{self.rank}.pt"
        state = {"optimizer": self.optimizer.state_dict(), "random": torch.get_rng_state()}
        torch.save(state, folder / name)
        return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()}

    def load(self, folder: Path) -> None:
        self.optimizer.load_state_dict(torch.load(folder / "rank-0.pt")["optimizer"])
        own = folder / f"rank-{self.rank}.pt"
        if own.exists():
            torch.set_rng_state(torch.load(own)["random"])

    def close(self, error: BaseException | None = None) -> None:
        if error is not None:
            with suppress(RuntimeError):
                self.store.set("error", f"rank {self.rank}: {error}")
        dist.destroy_process_group()


class Apart(Together):
    """Each rank trains alone."""

    def add(self, tensor: Tensor) -> None:
        if tensor.dtype == torch.int64:
            super().add(tensor)


class Floating(Together):
    """Counts in floats."""

    def total(self, tensor: Tensor) -> Tensor:
        return super().total(tensor.float()).to(tensor.dtype)


class Torn(Together):
    """On rank 1 a weight is wrong from a step until the next one reads it."""

    torn = 0.0

    def step(self, progress: float) -> dict[str, float]:
        said = super().step(progress)
        self.tear(self.rank * 1.0)
        return said

    def forward(self, batch: Batch) -> Any:
        self.tear(0.0)
        return super().forward(batch)

    def tear(self, by: float) -> None:
        with torch.no_grad():
            next(self.module.parameters()).data[0, 0] += by - self.torn
        self.torn = by


class Averaging(Together):
    """Each rank trains the mean over its own targets, and the means are averaged."""

    def forward(self, batch: Batch) -> Any:
        output = super().forward(batch)
        mean = self.ranks > 1 and batch.units > 0
        return type(output)(output.loss * 16 / batch.units, output.routings) if mean else output


class Selective(Together):
    """Sums the gradients that rank 0 has."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        Good.backward(self, loss, last=last)
        if last:
            parameters = list(self.module.parameters())
            there = self.share([parameter.grad is not None for parameter in parameters])
            for parameter, has_gradient in zip(parameters, there, strict=True):
                if has_gradient:
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    self.add(parameter.grad)


class Scaled(Together):
    """Sums a third of each gradient, and takes three times the sum."""

    def add(self, tensor: Tensor) -> None:
        if not tensor.is_floating_point():
            return super().add(tensor)
        tensor /= 3
        super().add(tensor)
        tensor *= 3
        return None


class Alike(Together):
    """Continues all ranks with the random numbers of the first."""

    def load(self, folder: Path) -> None:
        super().load(folder)
        torch.set_rng_state(torch.load(folder / "rank-0.pt")["random"])


class Fixed(Together):
    """Continues with as many ranks as before."""

    def load(self, folder: Path) -> None:
        if len(list(folder.iterdir())) != self.ranks:
            raise ValueError("it was saved by another number of ranks")
        super().load(folder)


class Silent(Together):
    """Leaves without a word."""

    def told(self) -> str:
        return ""


class Plain(Together):
    """Raises what torch raises, unless a rank has left a word."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        try:
            with super().waiting():
                yield
        except ProblemError as error:
            if not self.told():
                raise RuntimeError("a collective failed") from error
            raise


of = described("engine", "An engine that breaks one law", frozenset({"bit-equal", "several-ranks"}))


def alone(target: type) -> Any:
    return of(target, frozenset(), contract=2)


def together(target: type) -> Any:
    return of(target, contract=2)


GOOD = together(Together)
BROKEN = {
    "engine/forward-is-the-module-s": alone(Scaling),
    "engine/gradients-of-micro-batches-add-up": alone(Latest),
    "engine/clip-returns-the-norm-and-bounds-it": alone(Bounded),
    "engine/a-step-follows-the-schedule": alone(Steady),
    "engine/an-evaluation-leaves-no-trace": alone(Restless),
    "engine/routings-are-those-of-the-passes-that-follow": alone(Repeating),
    "engine/what-is-saved-continues": alone(Forgetful),
    "engine/what-is-staged-is-written-as-it-was": of(Late, frozenset({"asynchronous"}), contract=2),
    "engine/the-full-state-is-the-model-s": alone(Copying),
    "engine/one-rank-agrees-with-itself": alone(Rounding),
    "engine/two-ranks-train-as-one": together(Apart),
    "engine/ranks-answer-together": together(Floating),
    "engine/ranks-are-the-same-after-every-step": together(Torn),
    "engine/a-gradient-does-not-depend-on-the-cut": together(Averaging),
    "engine/ranks-and-experts-without-tokens-train-along": together(Selective),
    "engine/two-ranks-have-every-bit-of-one": together(Scaled),
    "engine/a-rank-holds-its-share": of(Together, GOOD.capabilities | {"sharded"}, contract=2),
    "engine/ranks-continue-what-they-saved": together(Alike),
    "engine/any-number-of-ranks-continues": together(Fixed),
    "engine/an-error-on-one-rank-is-told-to-the-others": together(Silent),
    "engine/ranks-end-where-another-dies": together(Plain),
}
