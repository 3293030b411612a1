"""Optimizers that break one law each; the good one is gradient descent with momentum and decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from broken.described import described
from penstock.hooks.contracts import ParameterRole

VECTORS = (ParameterRole.NORM, ParameterRole.BIAS)


class Good(torch.optim.Optimizer):
    spared: tuple[ParameterRole, ...] = VECTORS

    def __init__(self, parameters: Any, *, lr: float = 0.05, weight_decay: float = 0.1) -> None:
        groups = []
        for role, named in self.chosen(parameters).items():
            decay = 0.0 if role in self.spared else weight_decay
            rates = {"lr": lr, "initial_lr": lr, "weight_decay": decay}
            groups.append({"params": list(named.values()), **rates})
        super().__init__(groups, {})

    def chosen(self, parameters: Any) -> dict[ParameterRole, dict[str, Tensor]]:
        seen: set[int] = set()
        chosen: dict[ParameterRole, dict[str, Tensor]] = {}
        for role, named in parameters.items():
            for name, tensor in named.items():
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    chosen.setdefault(role, {})[name] = tensor
        return chosen

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group)

    def update(self, parameter: Tensor, gradient: Tensor, group: Any) -> None:
        zeros = torch.zeros(parameter.shape, dtype=parameter.dtype)  # whole, so cut parameters are not stepped
        momentum = self.state[parameter].setdefault("momentum", zeros)
        momentum.mul_(0.5).add_(self.direction(gradient))
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * momentum)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient


class NoOptimizer:
    def __init__(self, **settings: Any) -> None:
        self.param_groups = []


class WithoutRouters(Good):
    def chosen(self, parameters: Any) -> dict[ParameterRole, dict[str, Tensor]]:
        return {role: named for role, named in super().chosen(parameters).items() if role != ParameterRole.ROUTER}


class Doubling(Good):
    def __init__(self, parameters: Any, *, lr: float = 0.05, weight_decay: float = 0.1) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        head, embedding = (next(iter(parameters.get(role, {}).values()), None) for role in ("head", "embedding"))
        if head is not None and head is embedding:
            self.param_groups.append({**self.param_groups[0], "params": [head]})


class AskingForExperts(Good):
    def chosen(self, parameters: Any) -> dict[ParameterRole, dict[str, Tensor]]:
        next(iter(parameters[ParameterRole.EXPERT].values()))
        return super().chosen(parameters)


class WithoutInitial(Good):
    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        for group in self.param_groups:
            del group["initial_lr"]


class Flat(Good):
    """Steps nothing that is stacked."""

    def update(self, parameter: Tensor, gradient: Tensor, group: Any) -> None:
        if parameter.ndim < 3:
            super().update(parameter, gradient, group)


class DecayingAll(Good):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                decay = 0.01 * parameter if parameter.grad is None else 0
                self.update(parameter, gradient + decay, group)


class OfItsOwnRate(Good):
    """Takes the same step whatever the rate, unless it is 0."""

    def update(self, parameter: Tensor, gradient: Tensor, group: Any) -> None:
        super().update(parameter, gradient, {**group, "lr": group["initial_lr"] * bool(group["lr"])})


class Creeping(Good):
    """Has a smallest rate, far below those that are used."""

    def update(self, parameter: Tensor, gradient: Tensor, group: Any) -> None:
        super().update(parameter, gradient, {**group, "lr": max(group["lr"], 1e-3)})


class Noisy(Good):
    def direction(self, gradient: Tensor) -> Tensor:
        return gradient * (1 + 1e-3 * torch.rand(()))


class Forgetting(Good):
    """Keeps its momentum beside the state."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self.momenta: dict[Tensor, Tensor] = {}

    def update(self, parameter: Tensor, gradient: Tensor, group: Any) -> None:
        momentum = self.momenta.setdefault(parameter, torch.zeros_like(parameter))
        momentum.mul_(0.5).add_(gradient)
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * momentum)


class Clipping(Good):
    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.clamp_(-1, 1)


class Normalising(Good):
    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / gradient.float().norm()


class FourthPowers(Good):
    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / (1 + gradient.float().pow(4).mean()) * (1 + gradient.float().pow(4).mean())


class Uphill(Good):
    def direction(self, gradient: Tensor) -> Tensor:
        return -gradient


class Positional(Good):
    """Steps the parameters of later groups further."""

    def update(self, parameter: Tensor, gradient: Tensor, group: Any) -> None:
        position = next(i for i, each in enumerate(self.param_groups) if each is group)
        super().update(parameter, gradient * (1 + 0.1 * position), group)


class DecayingNorms(Good):
    spared = (ParameterRole.BIAS,)


class SparingExperts(Good):
    spared = (*VECTORS, ParameterRole.EXPERT)


class OnlyFullPrecision(Good):
    def direction(self, gradient: Tensor) -> Tensor:
        if gradient.dtype != torch.float32:
            raise TypeError("only fp32")
        return gradient


class Told(Good):
    """Of contract 2."""

    def __init__(self, *, layouts: Any = None, **arguments: Any) -> None:
        super().__init__(**arguments)


class Particular(Told):
    def __init__(self, *, parameters: Any, layouts: Any = None, **arguments: Any) -> None:
        super().__init__(parameters=parameters, **arguments)
        named = {name: each for of_role in parameters.values() for name, each in of_role.items()}
        self.fused = [named[name] for name in layouts or ()]


class OfOwnRows(Told):
    """Bounds the largest number of a gradient among the rows that it has."""

    def update(self, parameter: Any, gradient: Any, group: Any) -> None:
        if not hasattr(parameter, "to_local"):
            super().update(parameter, gradient, group)
        elif parameter.to_local().numel():
            super().update(parameter.to_local(), gradient.to_local(), group)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / gradient.abs().max().clamp(min=1)


of = described(
    "optimizer", "An optimizer that breaks one law", frozenset({"bf16-parameters"}), "broken.light:OptimizerSettings"
)
GOOD = of(Told, contract=2)
OLDER = of(Good)
BROKEN = {
    "optimizer/it-is-an-optimizer-of-torch": of(NoOptimizer),
    "optimizer/every-parameter-is-in-one-group": of(WithoutRouters),
    "optimizer/a-shared-parameter-is-stepped-once": of(Doubling),
    "optimizer/roles-without-parameters-are-left-out": of(AskingForExperts),
    "optimizer/groups-carry-the-rate-they-start-from": of(WithoutInitial),
    "optimizer/every-parameter-with-a-gradient-is-stepped": of(Flat),
    "optimizer/a-parameter-without-gradient-stays": of(DecayingAll),
    "optimizer/a-smaller-rate-takes-a-smaller-step": of(OfItsOwnRate),
    "optimizer/a-rate-of-zero-moves-nothing": of(Creeping),
    "optimizer/equal-gradients-give-equal-steps": of(Noisy),
    "optimizer/a-saved-state-continues-bit-for-bit": of(Forgetting),
    "optimizer/gradients-stay": of(Clipping),
    "optimizer/gradients-of-zero-leave-finite-parameters": of(Normalising),
    "optimizer/huge-gradients-leave-finite-parameters": of(FourthPowers),
    "optimizer/a-loss-goes-down": of(Uphill),
    "optimizer/the-order-of-parameters-does-not-matter": of(Positional),
    "optimizer/decay-spares-norms-and-biases": of(DecayingNorms),
    "optimizer/decay-shrinks-matrices": of(SparingExperts),
    "optimizer/parameters-in-bf16-are-stepped": of(OnlyFullPrecision),
    "optimizer/rows-of-parameters-are-stepped-as-whole-ones": of(
        OfOwnRows, frozenset({"bf16-parameters", "sharded"}), contract=2
    ),
    "optimizer/layouts-of-other-parameters-do-no-harm": of(Particular, contract=2),
}
