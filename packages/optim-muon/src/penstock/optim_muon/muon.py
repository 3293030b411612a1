"""Muon for matrices and stacked experts, AdamW for everything else, in one optimizer with one state.

- The rule follows from the parameter's role, not from its dimensions: a router's gate is 2-D too, and Muon ruins it.
- `torch.optim.Muon` refuses 3-D experts and steps one matrix at a time. Here all matrices of a role that have the same
  shape, whether they are parameters of their own or experts of a stack, are one batch of matrix products.
- The default scale is that of GLM-4.5 and Moonlight: each matrix's update has RMS about 0.2, like AdamW's, so that one
  learning rate and weight decay serve both rules.

Momentum, Nesterov step and rounding are those of `torch.optim.Muon`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from penstock.optim_muon.newton_schulz import orthogonalize
from penstock.optim_muon.roles import MUON_ROLES, NO_DECAY, Parameters, checked_muon_roles, distinct

# Elements of matrices that are joined into one batch: joining copies them, and a batch of 2^24 (64 MiB in fp32) already
# fills a device.
BATCH_ELEMENTS = 2**24

# pyright: reportPrivateImportUsage=false
# (torch.optim is built on torch._foreach_*, which torch exports without naming it public)

Scaling = Literal["match_rms", "original"]
IterationDtype = Literal["float32", "bfloat16"]


class MuonAdamW(torch.optim.Optimizer):
    """Steps `muon_roles` by Muon and the other roles by AdamW.

    `parameters` maps role to name to tensor; a tensor that stands there twice is stepped once, under its first role.
    Each role is one param group with `role`, `rule` ("muon" or "adamw") and `initial_lr`, so that a schedule can set
    `lr = initial_lr * factor`.

    `lr`, `momentum`, `nesterov`, `steps` (Newton-Schulz), `iteration_dtype` and `scaling` are Muon's. `scaling`:
    "match_rms" multiplies the orthogonal update by 0.2 * sqrt(max(rows, columns)) (Moonlight, arXiv 2502.16982 Eq. 4),
    "original" by sqrt(max(1, rows / columns)) (Keller Jordan). `adamw_lr` None is `lr`. `weight_decay` is decoupled,
    holds for both rules, and leaves out norms, biases and embeddings.

    Raises ValueError for a Muon role that is neither matrix nor expert, for a parameter in one that has less than two
    dimensions, and for numbers out of range.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        scaling: Scaling = "match_rms",
        steps: int = 5,
        iteration_dtype: IterationDtype = "float32",
        muon_roles: Iterable[str] = MUON_ROLES,
        adamw_lr: float | None = None,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
    ) -> None:
        adamw_lr = lr if adamw_lr is None else adamw_lr
        _check_numbers(lr, momentum, weight_decay, steps, adamw_lr, adamw_betas, adamw_eps)
        _scale(scaling, 1, 1)
        _iteration_dtype(iteration_dtype)
        muon = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "scaling": scaling,
            "steps": steps,
            "iteration_dtype": iteration_dtype,
        }
        # `fused` also tells load_state_dict where the step count lives.
        adam = {"lr": adamw_lr, "betas": tuple(adamw_betas), "eps": adamw_eps, "fused": True}
        muon_set = frozenset(checked_muon_roles(muon_roles))
        groups: list[dict[str, Any]] = []
        for role, named in distinct(parameters).items():
            if role in muon_set:
                _check_matrices(named)
            rule = {"rule": "muon", **muon} if role in muon_set else {"rule": "adamw", **adam}
            decay = 0.0 if role in NO_DECAY else weight_decay
            groups.append(
                {"params": list(named.values()), "role": role.value, "weight_decay": decay, **rule}
                | {"initial_lr": rule["lr"]}
            )
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Steps every parameter that has a gradient; returns the closure's loss, None without closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["rule"] == "muon":
                for batch in _batches(parameters):
                    self._muon_step(batch, group)
            elif parameters:
                self._adamw_step(parameters, group)
        return loss

    def _muon_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """One step of matrices [..., m, n] that share m and n."""
        gradients = _gradients(parameters)
        momenta = self._state_of(parameters, "momentum_buffer")
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = parameters[0].new_empty(sum(_counts(parameters)), *parameters[0].shape[-2:])
        weight = group["momentum"] if group["nesterov"] else 1.0
        for update, gradient, momentum in zip(_parts(updates, parameters), gradients, momenta, strict=True):
            torch.lerp(gradient, momentum, weight, out=update)
        dtype = _iteration_dtype(group["iteration_dtype"])
        directions = _parts(orthogonalize(updates, steps=group["steps"], dtype=dtype), parameters)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        scale = _scale(group["scaling"], *parameters[0].shape[-2:])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"] * scale)

    def _adamw_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if "step" not in self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            _gradients(parameters),
            self._state_of(parameters, "exp_avg"),
            self._state_of(parameters, "exp_avg_sq"),
            [],
            [self.state[parameter]["step"] for parameter in parameters],
            fused=group["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state_of(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return [self.state[parameter][name] for parameter in parameters]


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _batches(parameters: list[Tensor]) -> list[list[Tensor]]:
    """Cuts the parameters into lists of equal matrices, each of at most `BATCH_ELEMENTS` or a single parameter."""
    batches: list[list[Tensor]] = []
    latest: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        key = (parameter.shape[-2:], parameter.device, parameter.dtype)
        batch = latest.get(key)
        if batch is None or sum(member.numel() for member in batch) + parameter.numel() > BATCH_ELEMENTS:
            batch = latest[key] = []
            batches.append(batch)
        batch.append(parameter)
    return batches


def _counts(parameters: Sequence[Tensor]) -> list[int]:
    """Matrices of each parameter."""
    return [parameter.shape[:-2].numel() for parameter in parameters]


def _parts(stack: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """What each parameter has of a stack [count, m, n] of all their matrices, in its own shape."""
    parts = stack.split(_counts(parameters))
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]


def _scale(scaling: str, rows: int, columns: int) -> float:
    match scaling:
        case "match_rms":
            return 0.2 * math.sqrt(max(rows, columns))
        case "original":
            return math.sqrt(max(1.0, rows / columns))
        case _:
            raise ValueError(f"scaling='{scaling}' is unknown: use 'match_rms' or 'original'")


def _iteration_dtype(name: str) -> torch.dtype:
    match name:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case _:
            raise ValueError(f"iteration_dtype='{name}' is unknown: use 'float32' or 'bfloat16'")


def _check_matrices(named: dict[str, Tensor]) -> None:
    for name, parameter in named.items():
        if parameter.ndim < 2:
            raise ValueError(
                f"parameter '{name}' has shape {tuple(parameter.shape)} in a Muon role: only matrices and stacks of "
                "them can be orthogonalised, give it the role 'norm' or 'bias'"
            )


def _check_numbers(
    lr: float,
    momentum: float,
    weight_decay: float,
    steps: int,
    adamw_lr: float,
    adamw_betas: tuple[float, float],
    adamw_eps: float,
) -> None:
    for name, value in (("lr", lr), ("weight_decay", weight_decay), ("adamw_lr", adamw_lr), ("adamw_eps", adamw_eps)):
        if value < 0:
            raise ValueError(f"{name}={value} is negative: use 0 or more")
    for name, value in (("momentum", momentum), ("adamw_betas[0]", adamw_betas[0]), ("adamw_betas[1]", adamw_betas[1])):
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value}: use a decay in [0, 1)")
    if steps < 1:
        raise ValueError(f"steps={steps}: Newton-Schulz needs at least 1 step")
