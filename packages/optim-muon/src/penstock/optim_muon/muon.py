"""Muon for matrices and stacked experts, AdamW for everything else, in one optimizer with one state.

- The rule follows from the parameter's role, not from its dimensions: a router's gate is 2-D too, but Muon hurts it.
- `torch.optim.Muon` refuses 3-D experts and steps one matrix at a time. Here all matrices of a role with the same
  shape, whether separate parameters or experts of a stack, are one batch of matrix products.
- The default scale is that of GLM-4.5 and Moonlight: each matrix's update has RMS about 0.2, like AdamW's, so that one
  learning rate and weight decay serve both rules.

Momentum, Nesterov step and rounding are those of `torch.optim.Muon`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from penstock.hooks.contracts import ParameterLayout, ParameterRole
from penstock.optim_muon.adamw import step_adamw
from penstock.optim_muon.cut import check_cut, is_cut, local
from penstock.optim_muon.eager import EagerOptimizer
from penstock.optim_muon.matrices import IterationDtype, Scaling, batches, step_batch, update_scale
from penstock.optim_muon.matrices import iteration_dtype as dtype_of
from penstock.optim_muon.roles import MUON_ROLES, NO_DECAY, Parameters, checked_muon_roles, checked_rates, distinct


class MuonAdamW(EagerOptimizer):
    """Steps `muon_roles` by Muon and the other roles by AdamW.

    `parameters` maps role to name to tensor; a tensor that appears twice is stepped once, under its first role. Each
    role is one param group with `role`, `rule` ("muon" or "adamw") and `initial_lr`, so that a schedule can set `lr =
    initial_lr * factor`.

    `lr`, `momentum`, `nesterov`, `steps` (Newton-Schulz), `iteration_dtype` and `scaling` are Muon's. `scaling`:
    "match_rms" multiplies the orthogonal update by 0.2 * sqrt(max(rows, columns)) (Moonlight, arXiv 2502.16982 Eq. 4),
    "original" by sqrt(max(1, rows / columns)) (Keller Jordan). `adamw_lr` None means `lr`; `role_lr` overrides the rate
    of single roles under either rule. `weight_decay` is decoupled, applies to both rules, and exempts norms, biases and
    embeddings.

    `layouts` says which parameters hold more than one matrix, such as the gate and up matrices of experts in one
    tensor, or are stored as [in, out]. Each matrix [out, in] is orthogonalised and scaled separately. Without
    `split_fused` every tensor is one matrix as it is stored: the update of gate shrinks to a tenth where the gradient
    of up is 1,000 times larger. The momentum has the shape of the tensor either way.

    Raises ValueError for a Muon role other than matrix and expert, for a parameter in one with fewer than two
    dimensions, and for numbers out of range.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        layouts: Mapping[str, ParameterLayout] | None = None,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        scaling: Scaling = "match_rms",
        steps: int = 5,
        iteration_dtype: IterationDtype = "auto",
        muon_roles: Iterable[str] = MUON_ROLES,
        adamw_lr: float | None = None,
        role_lr: Mapping[ParameterRole, float] | None = None,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        split_fused: bool = True,
    ) -> None:
        adamw_lr = lr if adamw_lr is None else adamw_lr
        rates = checked_rates(role_lr or {})
        _check_numbers(lr, momentum, weight_decay, steps, adamw_lr, adamw_betas, adamw_eps)
        update_scale(scaling, 1, 1)
        dtype_of(iteration_dtype, torch.device("cpu"))
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
            for name, parameter in named.items():
                check_cut(name, parameter)
            if role in muon_set:
                _check_matrices(named)
            rule = {"rule": "muon", **muon} if role in muon_set else {"rule": "adamw", **adam}
            decay = 0.0 if role in NO_DECAY else weight_decay
            rate = rates.get(role, rule["lr"])
            groups.append(
                {"params": list(named.values()), "role": role.value, "weight_decay": decay, **rule}
                | {"lr": rate, "initial_lr": rate}
            )
        super().__init__(groups, {})
        # Keyed by tensor and kept outside the groups: layouts come from the model, not from the checkpoint.
        fused = {} if layouts is None or not split_fused else layouts
        named = [each for named in parameters.values() for each in named.items()]
        self._layouts = {id(tensor): fused[name] for name, tensor in named if name in fused}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Steps every parameter that has a gradient; returns the closure's loss, or None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["rule"] == "muon":
                self._step_matrices([each for each in parameters if not _lies_apart(each)], group)
                self._step_rows([each for each in parameters if _lies_apart(each)], group)
            else:
                self._step_adamw(parameters, group)
        return loss

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Steps matrices that this rank has whole, each matrix of a fused tensor separately."""
        held = [
            (self._layouts.get(id(triple[0])), tuple(map(local, triple)))
            for triple in self._triples(parameters)
            if local(triple[0]).numel()  # of few experts some ranks have none
        ]
        cut = [(layout, triple) for layout, triple in held if layout]
        matrices = [[layout.matrices(tensor) for tensor in triple] for layout, triple in cut]
        whole = [triple for layout, triple in held if not layout]
        parts = [part for each in matrices for part in zip(*(named.values() for named in each), strict=True)]
        for batch in batches([*whole, *parts]):
            step_batch(batch, group)
        for (layout, (parameter, _, momentum)), (stepped, _, moved) in zip(cut, matrices, strict=True):
            if layout.blocks > 1:  # copies; all others are views of the tensor that they are part of
                layout.write(parameter, stepped)
                layout.write(momentum, moved)

    def _step_rows(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Steps matrices of which this rank has some rows."""
        if parameters:
            from penstock.optim_muon import sharded  # not needed in one process

            layouts = [self._layouts.get(id(parameter), ParameterLayout()) for parameter in parameters]
            sharded.step_matrices(self._triples(parameters), layouts, group)

    def _step_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if "step" not in self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        averages, squares = (self._state_of(parameters, name) for name in ("exp_avg", "exp_avg_sq"))
        tensors = list(zip(parameters, _gradients(parameters), averages, squares, strict=True))
        step_adamw(tensors, [self.state[parameter]["step"] for parameter in parameters], group)

    def _triples(self, parameters: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(parameter, gradient, momentum) of each."""
        momenta = self._state_of(parameters, "momentum_buffer")
        return list(zip(parameters, _gradients(parameters), momenta, strict=True))

    def _state_of(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return [self.state[parameter][name] for parameter in parameters]


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _lies_apart(parameter: Tensor) -> bool:
    """Whether ranks have rows of the same matrix; a stack that is cut over ranks leaves each matrix on one."""
    return is_cut(parameter) and parameter.ndim == 2


def _check_matrices(named: dict[str, Tensor]) -> None:
    for name, parameter in named.items():
        if parameter.ndim < 2:
            raise ValueError(
                f"parameter '{name}' of shape {tuple(parameter.shape)} has a Muon role, but only matrices and stacks "
                "of matrices can be orthogonalised: give it the role 'norm' or 'bias'"
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
            raise ValueError(f"{name}={value} is out of range: use a decay rate in [0, 1)")
    if steps < 1:
        raise ValueError(f"steps={steps}: Newton-Schulz needs at least 1 step")
