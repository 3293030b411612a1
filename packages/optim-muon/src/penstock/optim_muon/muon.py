"""Muon for matrices and stacked experts, AdamW for everything else, in one optimizer with one state.

- The rule follows from the parameter's role, not from its dimensions: a router's gate is 2-D too, but Muon hurts it.
- `torch.optim.Muon` refuses 3-D experts and steps one matrix at a time. Here all matrices of a role with the same
  shape, whether separate parameters or experts of a stack, are one batch of matrix products.
- The default scale is that of GLM-4.5 and Moonlight: each matrix's update has RMS about 0.2, like AdamW's, so that one
  learning rate and weight decay serve both rules.

Momentum, Nesterov step and rounding are those of `torch.optim.Muon`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from penstock.hooks.contracts import ParameterLayout, ParameterRole
from penstock.optim_muon.newton_schulz import multiplies_bf16, orthogonalize
from penstock.optim_muon.roles import MUON_ROLES, NO_DECAY, Parameters, checked_muon_roles, checked_rates, distinct

# Elements of matrices that are stepped as one batch. 2^24 (64 MiB in fp32) fill a GPU; on a CPU what a batch
# needs stays near the cache, and the next one finds it mapped: 160 experts take 0.84 of the time of one batch.
GPU_BATCH, CPU_BATCH = 2**24, 2**20

# pyright: reportPrivateImportUsage=false
# (torch.optim is built on torch._foreach_*, which torch exports without naming it public)

Scaling = Literal["match_rms", "original"]
IterationDtype = Literal["auto", "float32", "bfloat16"]


class MuonAdamW(torch.optim.Optimizer):
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
        _scale(scaling, 1, 1)
        _iteration_dtype(iteration_dtype, torch.device("cpu"))
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
                momenta = self._state_of(parameters, "momentum_buffer")
                self._step_matrices(list(zip(parameters, _gradients(parameters), momenta, strict=True)), group)
            elif parameters:
                self._adamw_step(parameters, group)
        return loss

    def _step_matrices(self, triples: list[tuple[Tensor, ...]], group: dict[str, Any]) -> None:
        """Steps (parameter, gradient, momentum), each matrix of a fused tensor separately."""
        cut = [(layout, triple) for triple in triples if (layout := self._layouts.get(id(triple[0])))]
        matrices = [[layout.matrices(tensor) for tensor in triple] for layout, triple in cut]
        whole = [triple for triple in triples if id(triple[0]) not in self._layouts]
        parts = [part for each in matrices for part in zip(*(named.values() for named in each), strict=True)]
        for batch in _batches([*whole, *parts]):
            _muon_step(batch, group)
        for (layout, (parameter, _, momentum)), (stepped, _, moved) in zip(cut, matrices, strict=True):
            if layout.blocks > 1:  # copies; all others are views of the tensor that they are part of
                layout.write(parameter, stepped)
                layout.write(momentum, moved)

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


def _batches(tensors: Iterable[tuple[Tensor, ...]]) -> Iterator[list[tuple[Tensor, ...]]]:
    """Batches of equal matrices from (parameter, gradient, momentum) of [..., m, n], as stacks [count, m, n]; small
    stacks are joined, large ones cut."""
    batches: dict[Any, list[tuple[Tensor, ...]]] = {}
    sizes: dict[Any, int] = {}
    for triple in tensors:
        stacks = [tensor.unsqueeze(0) if tensor.ndim == 2 else tensor.flatten(0, -3) for tensor in triple]
        parameter = triple[0]
        key = (parameter.shape[-2:], parameter.device, parameter.dtype)
        limit = CPU_BATCH if parameter.device.type == "cpu" else GPU_BATCH
        together = max(1, limit // stacks[0][0].numel())
        for piece in zip(*(stack.split(together) for stack in stacks), strict=True):
            if key in batches and sizes[key] + len(piece[0]) > together:
                yield batches.pop(key)
            sizes[key] = len(piece[0]) + (sizes[key] if key in batches else 0)
            batches.setdefault(key, []).append(piece)
    yield from batches.values()


def _muon_step(batch: list[tuple[Tensor, ...]], group: dict[str, Any]) -> None:
    """One step of (parameter, gradient, momentum) stacks [count, m, n] that share m and n."""
    parameters, gradients, momenta = (list(tensors) for tensors in zip(*batch, strict=True))
    torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
    counts = [len(parameter) for parameter in parameters]
    updates = parameters[0].new_empty(sum(counts), *parameters[0].shape[1:])
    weight = group["momentum"] if group["nesterov"] else 1.0
    for update, gradient, momentum in zip(updates.split(counts), gradients, momenta, strict=True):
        torch.lerp(gradient, momentum, weight, out=update)
    dtype = _iteration_dtype(group["iteration_dtype"], updates.device)
    directions = orthogonalize(updates, steps=group["steps"], dtype=dtype).split(counts)
    if group["weight_decay"]:
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
    scale = _scale(group["scaling"], *parameters[0].shape[1:])
    torch._foreach_add_(parameters, directions, alpha=-group["lr"] * scale)


def _scale(scaling: str, rows: int, columns: int) -> float:
    match scaling:
        case "match_rms":
            return 0.2 * math.sqrt(max(rows, columns))
        case "original":
            return math.sqrt(max(1.0, rows / columns))
        case _:
            raise ValueError(f"unknown scaling '{scaling}': use 'match_rms' or 'original'")


def _iteration_dtype(name: str, device: torch.device) -> torch.dtype:
    match name:
        case "auto":
            return torch.bfloat16 if multiplies_bf16(device) else torch.float32
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case _:
            raise ValueError(f"unknown iteration_dtype '{name}': use 'auto', 'float32' or 'bfloat16'")


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
