"""An optimizer: a step of the same size for every weight."""

from collections.abc import Mapping

import torch

from penstock.hooks import Component, hookimpl
from penstock.hooks.config import Schema
from penstock.hooks.contracts import ParameterRole


class SignDescentSettings(Schema):
    lr: float = 1e-3
    """Size of a step."""


class SignDescent(torch.optim.Optimizer):
    def __init__(self, *, lr: float, parameters: Mapping[ParameterRole, Mapping[str, torch.Tensor]]) -> None:
        groups = [
            {"params": list(named.values()), "role": role.value, "initial_lr": lr}
            for role, named in parameters.items()
            if named
        ]
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad.sign(), alpha=-group["lr"])


@hookimpl
def optimizers() -> list[Component]:
    return [
        Component(
            kind="optimizer",
            name="sign-descent",
            target="sign_descent:SignDescent",
            config="sign_descent:SignDescentSettings",
            summary="The gradient's sign",
            contract=1,
        )
    ]
