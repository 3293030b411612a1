# pyright: basic
"""What laws of engines hold an engine with: small models, their batches, and some steps of training.

Shape suffixes: B batch, S sequence, D model width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from penstock.conformance.law import Subject, expect
from penstock.conformance.parts import VOCABULARY, TinyModel, TopKRouter
from penstock.conformance.ranks import torchrun_variables
from penstock.hooks.contracts import Batch, Inputs, ModelOutput, ObjectiveOutput, Routing
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Choice

ENGINE = "engine"
RATE = 0.5


class RoutedModel(TinyModel):
    """With a router whose weights scale the hidden states, a buffer that counts passes, and dropout."""

    passes: Tensor

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.gate = TopKRouter(8, 4, 2)
        with torch.no_grad():
            self.gate.weight.copy_(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.dropout = dropout

    @property
    def routers(self) -> Mapping[int, Any]:
        return {0: self.gate}

    def forward(self, inputs: Inputs | Tensor, *, cache: Any = None) -> ModelOutput:
        token_BS = Inputs.of(inputs).token_BS
        if self.training:
            self.passes += 1
        hidden_BSD = F.dropout(F.embedding(token_BS, self.embedding), self.dropout, self.training)
        routing: Routing = self.gate(hidden_BSD.flatten(0, 1))
        scale_BS1 = (routing.weight_TK.square().sum(-1)).view(*token_BS.shape, 1)
        return ModelOutput((hidden_BSD @ self.middle.T) * scale_BS1, {0: routing})


class TiedModel(RoutedModel):
    """The head is the embedding."""

    def __init__(self, dropout: float) -> None:
        super().__init__(dropout)
        self.head = self.embedding


class SparseModel(TinyModel):
    """Experts that are parameters of their own: the token's id, modulo their number, chooses. One that no token chose
    has no gradient at all."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.experts = nn.ParameterList(torch.randn(8, 8, generator=generator) * 0.5 for _ in range(experts))

    def forward(self, inputs: Inputs | Tensor, *, cache: Any = None) -> ModelOutput:
        token_BS = Inputs.of(inputs).token_BS
        hidden_BSD = F.embedding(token_BS, self.embedding) @ self.middle.T
        for number, expert in enumerate(self.experts):
            chosen_BS1 = (token_BS % len(self.experts) == number).unsqueeze(-1)
            if chosen_BS1.any():
                hidden_BSD = hidden_BSD + chosen_BS1 * (hidden_BSD @ expert)
        return ModelOutput(hidden_BSD, {})


class Module(nn.Module):
    """A `StepModule` of a model and the next token's loss over counted targets, as a share of 32 of them."""

    def __init__(self, model: TinyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, *, routings_only: bool = False) -> Any:
        output = self.model(batch.inputs.token_BS)
        if routings_only:
            return output.routings
        logits_BSV = self.model.logits(output.hidden_BSD)
        loss_N = F.cross_entropy(logits_BSV.flatten(0, 1), batch.target_BS.flatten(), reduction="none")
        if batch.counted_BS is not None:
            loss_N = loss_N * batch.counted_BS.flatten()
        return ObjectiveOutput(loss_N.sum() / 32, output.routings)


def engine_module(dropout: float = 0.0) -> Module:
    return Module(RoutedModel(dropout))


def dropping_module() -> Module:
    return engine_module(0.25)


def tied_module() -> Module:
    return Module(TiedModel(0.0))


def sparse_module() -> Module:
    return Module(SparseModel())


def sgd(module: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": list(module.parameters()), "lr": RATE, "initial_lr": RATE}])


def revealing(module: Any) -> torch.optim.Optimizer:
    """A step so large that the weights after it are the gradient, but for its rounding."""
    return torch.optim.SGD([{"params": list(module.parameters()), "lr": 2.0**20, "initial_lr": 2.0**20}])


def adam(module: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": list(module.parameters()), "lr": 0.01, "initial_lr": 0.01}], foreach=False)


def falling(progress: float) -> float:
    return 1.0 - progress


@dataclass(frozen=True, slots=True)
class _Variables:
    """Environment variables that are set for a while; None unsets one."""

    values: Mapping[str, str | None]

    @contextmanager
    def set(self) -> Iterator[None]:
        before = {name: os.environ.get(name) for name in self.values}
        try:
            self._put(self.values)
            yield
        finally:
            self._put(before)

    @staticmethod
    def _put(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def prepared(subject: Subject, *, dropout: float = 0.0) -> Iterator[Any]:
    """The engine as the only rank, with the model of the laws; torch's generator begins at a seed, and is restored."""
    with _Variables(torchrun_variables(1)[0]).set(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        engine = subject.build(device=torch.device("cpu"))
        try:
            engine.prepare(engine_module(dropout), sgd, falling)
            yield engine
        finally:
            engine.close()


def builds_alone(subject: Subject) -> bool:
    unset = dict.fromkeys(torchrun_variables(1)[0])
    with _Variables(unset).set():
        try:
            subject.build(device=torch.device("cpu")).close()
        except ProblemError:
            return False
    return True


def batch_of(seed: int) -> Batch:
    window_BS = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(seed))
    return Batch(Inputs(window_BS[:, :-1]), window_BS[:, 1:], 16)


def counting(seed: int, units: int) -> Batch:
    """A batch of which so many targets count, at the end of each row."""
    batch = batch_of(seed)
    counted_BS = torch.arange(8).expand(2, 8) >= 8 - torch.tensor([[units - units // 2], [units // 2]])
    return Batch(batch.inputs, batch.target_BS, units, counted_BS)


def accumulate(engine: Any, *seeds: int) -> None:
    for seed in seeds:
        engine.backward(engine.forward(batch_of(seed)).loss, last=seed == seeds[-1])


def gradients_at(module: Module, *seeds: int) -> dict[str, Tensor]:
    """The gradient of the sum over some batches, by plain autograd."""
    module.zero_grad()
    for seed in seeds:
        module(batch_of(seed)).loss.backward()
    return {name: value.grad.clone() for name, value in module.model.named_parameters() if value.grad is not None}


def expect_moved(engine: Any, gradients: Mapping[str, Tensor], progress: float) -> dict[str, float]:
    """A step goes along these gradients, at the rate of the schedule."""
    before = values_of(engine)
    said = engine.step(progress)
    after = values_of(engine)
    for name, gradient in gradients.items():
        wanted = before[name] - RATE * falling(progress) * gradient
        expect(torch.allclose(after[name], wanted, atol=1e-5), f"{name} has not moved by its rate times the gradient")
    return said


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps of training. Each has as many micro-batches as ranks and parts make together; a rank takes its share."""

    steps: Sequence[Sequence[Batch]]
    module: Callable[[], Module] = engine_module
    optimizer: Callable[[Any], torch.optim.Optimizer] = sgd
    limit: float | None = None

    def take(self, engine: Any, step: int) -> float:
        """One step of this rank; the norm."""
        batches = self.steps[step]
        each = len(batches) // engine.ranks
        own = batches[engine.rank * each : (engine.rank + 1) * each]
        for batch in own:
            engine.backward(engine.forward(batch).loss, last=batch is own[-1])
        norm = engine.clip(self.limit)
        engine.step(0.25)
        return norm


@contextmanager
def joined(plan: Plan, choice: Choice) -> Iterator[Any]:
    """The engine of a rank that begins with the plan's model; ranks leave together."""
    torch.manual_seed(0)
    engine = choice.build(device=torch.device("cpu"))
    engine.prepare(plan.module(), plan.optimizer, falling)
    yield engine
    engine.barrier()
    engine.close()


def steps_of(count: int, micro_batches: int) -> list[list[Batch]]:
    return [[batch_of(step * micro_batches + each) for each in range(micro_batches)] for step in range(count)]


def train(engine: Any, *seeds: int) -> float:
    """One step of these micro-batches; the norm."""
    accumulate(engine, *seeds)
    norm = engine.clip(1.0)
    engine.step(0.25)
    return norm


def values_of(engine: Any) -> dict[str, Tensor]:
    with engine.full_state() as state:
        return {name: value.detach().clone() for name, value in state.items()}


def write(engine: Any, values: Mapping[str, Tensor]) -> None:
    """Gives the model these parameters and buffers."""
    with torch.no_grad(), engine.full_state() as state:
        for name, value in state.items():
            value.copy_(values[name])


def flat(values: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([values[name].flatten() for name in sorted(values) if values[name].is_floating_point()])
