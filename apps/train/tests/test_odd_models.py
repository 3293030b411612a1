"""Two ranks train what libraries find odd as one process with two micro-batches does: every bit of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from penstock.conformance.ranks import ranks_asked, told_by_ranks
from penstock.hooks import Registry
from penstock.hooks.contracts import Batch, ObjectiveOutput, ParameterRole
from penstock.hooks.registry import Choice
from penstock.optim_muon.muon import MuonAdamW
from penstock.train.engines.ddp import random_state_of
from penstock.train.step_module import StepModule

WIDTH, STEPS = 4, 2
TYPES = ("float8_e4m3fn", "int16", "uint16", "uint32", "bool", "bfloat16", "complex64")


class Thin(nn.Module):
    """A matrix with one row, a vector with one number, and a matrix with fewer rows than three ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.two = nn.Parameter(torch.randn(1, WIDTH)), nn.Parameter(torch.randn(2, WIDTH))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return (x + x @ self.row.T + x @ self.two.T @ self.two).tanh() * self.scale


class Scaled(nn.Module):
    """A parameter that is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.factor = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).tanh() * self.factor


class Transposed(nn.Module):
    """A parameter and a buffer whose memory lies the other way round."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH).T)
        self.register_buffer("shift", torch.randn(WIDTH, 1).expand(WIDTH, WIDTH).T)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).tanh() + self.shift.sum(dim=0)


class Tied(nn.Module):
    """Both layers have one parameter, whose rows two ranks share unevenly."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight.T @ self.weight).tanh()


class Typed(nn.Module):
    """Buffers of types that a library may not send."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))
        for name in TYPES:
            self.register_buffer(f"a_{name}", torch.randint(0, 2, (3,)).to(getattr(torch, name)))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Named(nn.Module):
    """Is called with names alone, and uses a parameter only for some inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.rare = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.ones(5, WIDTH))

    def forward(self, *, x: Tensor, second: bool) -> Tensor:
        return (x @ self.weight).tanh() + (self.rare.sum() if second else 0)


class Model(nn.Module):
    """`tokens` of an input are numbers here."""

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(WIDTH, WIDTH))
        first, second = layer(), layer()
        if isinstance(first, Tied):
            second.weight = first.weight
        self.layers = nn.ModuleList([first, second])

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x @ self.first
        for layer in self.layers:
            more = {"x": hidden, "second": bool(x.sum() < 0)} if isinstance(layer, Named) else {}
            hidden = layer(**more) if more else layer(hidden)
        return hidden

    @property
    def routers(self) -> dict[int, Any]:
        return {}


class Sum:
    def loss(self, model: Any, batch: Batch) -> ObjectiveOutput:
        return ObjectiveOutput(model(batch.inputs).square().sum(), {})


def muon(module: Any) -> torch.optim.Optimizer:
    named = dict(module.named_parameters())
    matrices = {name: each for name, each in named.items() if each.ndim > 1}
    return MuonAdamW(
        {ParameterRole.MATRIX: matrices, ParameterRole.NORM: {n: p for n, p in named.items() if n not in matrices}}
    )


def batch_of(number: int) -> Batch:
    """The sum of its numbers is below zero for even ones alone."""
    x: Any = torch.rand(3, WIDTH, generator=torch.Generator().manual_seed(number))
    return Batch(x if number % 2 else -x, torch.zeros(3, WIDTH, dtype=torch.int64), 3)


def trained(layer: type[nn.Module], parts: int, choice: Choice) -> dict[str, Any]:
    """The state and the norms that a run ends with. Each rank begins with other weights: those of rank 0 count."""
    engine = choice.build(device=torch.device("cpu"))
    torch.manual_seed(engine.rank)
    model: Any = Model(layer)
    objective: Any = Sum()
    engine.prepare(StepModule(model, objective), lambda module: muon(module.model), lambda progress: 1.0)
    own, norms = range(engine.rank * parts, (engine.rank + 1) * parts), []
    for step in range(STEPS):
        for part in own:
            loss = engine.forward(batch_of(2 * step + part)).loss
            engine.backward(loss, last=part == own[-1])
        norms.append(engine.clip(0.1))
        engine.step(0.5)
    with engine.full_state() as state:
        found = {name: numbers(tensor) for name, tensor in state.items()}
    engine.barrier()
    engine.close()
    return {**found, "norms": torch.tensor(norms)}


def numbers(tensor: Tensor) -> Tensor:
    """Of any type, exactly."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().double().clone()


def told(layer: type[nn.Module], engine: str, ranks: int, parts: int) -> list[dict[str, Tensor]]:
    return told_by_ranks(partial(trained, layer, parts), chosen(engine), ranks)


def chosen(engine: str) -> Choice:
    """Small layers have groups of their own, as large ones do."""
    settings = {"use": engine, "least_layer": 0} if engine == "fsdp2" else engine
    return Registry.discover().choose("engine", settings)


def differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    assert one.keys() == two.keys()
    return [name for name in one if not torch.equal(one[name], two[name])]


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
@pytest.mark.parametrize("layer", [Thin, Transposed, Tied, Typed, Named])
def test_two_ranks_have_every_bit_of_one_process(layer: type[nn.Module], engine: str) -> None:
    (alone,) = told(layer, "local", 1, 2)
    for found in told(layer, engine, 2, 1):
        assert differing(found, alone) == []


def test_a_parameter_that_is_one_number_is_refused_by_name() -> None:
    (alone,) = told(Scaled, "local", 1, 2)
    for found in told(Scaled, "ddp", 2, 1):
        assert differing(found, alone) == []
    for end in ranks_asked(partial(trained, Scaled, 1), chosen("fsdp2"), 2):
        assert end.status != 0
        assert ".factor' is one number" in end.error


@pytest.mark.parametrize("ranks", [1, 3])
def test_cut_rows_are_stepped_on_one_rank_and_on_more_ranks_than_rows(ranks: int) -> None:
    (alone,) = told(Thin, "local", 1, ranks)
    found = told(Thin, "fsdp2", ranks, 1)
    for each in found:
        assert differing(each, found[0]) == []
        assert all(torch.allclose(each[name], alone[name], rtol=1e-4, atol=1e-5) for name in alone)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_a_gradient_of_the_first_micro_batch_alone_is_summed_over_ranks(engine: str) -> None:
    (alone,) = told(Named, "local", 1, 4)
    for found in told(Named, engine, 2, 2):
        assert all(torch.allclose(found[name], alone[name], rtol=1e-4, atol=1e-5) for name in alone)


def test_a_rank_goes_on_with_its_own_random_numbers_of_every_device() -> None:
    state = {"torch_rng": "a", "cuda_rng": ["b"], "torch_rng_of_ranks": ["a", "c"], "cuda_rng_of_ranks": [["b"], ["d"]]}
    assert random_state_of(state, 1) == {"torch_rng": "c", "cuda_rng": ["d"]}
    assert random_state_of(state, 2) == {}
    before = {"torch_rng": "a", "cuda_rng": ["b"], "torch_rng_of_ranks": ["a", "c"]}
    assert random_state_of(before, 1) == {"torch_rng": "c", "cuda_rng": ["b"]}
    assert random_state_of({"torch_rng": "a", "cuda_rng": []}, 0) == {"torch_rng": "a", "cuda_rng": []}
