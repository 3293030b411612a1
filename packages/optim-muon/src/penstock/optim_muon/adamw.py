"""AdamW with one param group per role: the baseline for Muon. Parameters may be cut over ranks.

On a CPU, torch's fused kernel rounds the numbers of full vector registers otherwise than the few left at the end of a
tensor. Where a tensor is cut, other numbers are left: they are stepped at the place in a register that they have in the
whole tensor, so that the bits do not depend on the number of ranks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim.adamw import adamw as torch_adamw

from penstock.hooks.contracts import ParameterRole
from penstock.optim_muon.cut import check_cut, is_cut, local, rows_of
from penstock.optim_muon.eager import EagerOptimizer
from penstock.optim_muon.roles import NO_DECAY, Parameters, checked_rates, distinct

# Bytes that are whole registers on every CPU: one of AVX-512, two of AVX2.
REGISTERS = 64

# pyright: reportPrivateImportUsage=false
# (torch.optim is built on torch._foreach_*, which torch exports without naming it public)


def adamw(
    parameters: Parameters,
    *,
    lr: float = 3e-4,
    role_lr: Mapping[ParameterRole, float] | None = None,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> torch.optim.AdamW:
    """`torch.optim.AdamW` (fused) over `parameters`, which maps role to name to tensor.

    `role_lr` overrides `lr` for single roles. Norms, biases and embeddings are not decayed. A tensor that appears twice
    is stepped once, under its first role. Each group has `role`, `rule` ("adamw") and `initial_lr`, so that a schedule
    can set `lr = initial_lr * factor`.
    """
    rates = checked_rates(role_lr or {})
    roles = distinct(parameters)
    for named in roles.values():
        for name, parameter in named.items():
            check_cut(name, parameter)
    groups = [
        {
            "params": list(named.values()),
            "role": role.value,
            "rule": "adamw",
            "lr": rates.get(role, lr),
            "initial_lr": rates.get(role, lr),
            "weight_decay": 0.0 if role in NO_DECAY else weight_decay,
        }
        for role, named in roles.items()
    ]
    return AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


class AdamW(EagerOptimizer, torch.optim.AdamW):
    """torch's, which also steps parameters that are cut over ranks."""

    _step_whole = inspect.unwrap(torch.optim.AdamW.step)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not any(is_cut(parameter) for group in self.param_groups for parameter in group["params"]):
            return self._step_whole(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters, gradients, averages, squares, largest, steps = ([] for _ in range(6))
            self._init_group(group, parameters, gradients, averages, squares, largest, steps)
            step_adamw(list(zip(parameters, gradients, averages, squares, strict=True)), steps, group)
        return loss


def step_adamw(tensors: Sequence[tuple[Tensor, ...]], steps: Sequence[Tensor], group: Mapping[str, Any]) -> None:
    """Steps (parameter, gradient, average, average of squares), whole or cut, and their step counts."""
    if not any(is_cut(parameter) for parameter, *_ in tensors):
        _fused(tensors, steps, group)
        return
    pieces: list[tuple[Tensor, ...]] = []
    counts: list[Tensor] = []
    padded: list[tuple[Sequence[Tensor], Sequence[Tensor], int]] = []
    for each, step in zip(tensors, steps, strict=True):
        flat = [local(tensor).reshape(-1) for tensor in each]
        for part, left, length in _pieces(each[0]):
            piece = tuple(tensor[part] for tensor in flat)
            counts.append(step.clone())
            if len(piece[0]) == length:
                pieces.append(piece)
            else:
                pieces.append(tuple(pad(tensor, (left, length - left - len(tensor))) for tensor in piece))
                padded.append((piece, pieces[-1], left))
    _fused(pieces, counts, group)
    for piece, wide, left in padded:
        for number in (0, 2, 3):  # all but the gradient
            piece[number].copy_(wide[number][left : left + len(piece[number])])
    torch._foreach_add_(list(steps), 1)


def _pieces(parameter: Any) -> Iterator[tuple[slice, int, int]]:
    """Parts of the numbers that this rank has of a parameter: (part, numbers before it in its registers, length of
    these registers)."""
    count = local(parameter).numel()
    if not is_cut(parameter) or parameter.device.type != "cpu":
        yield slice(0, count), 0, count
        return
    whole, unit = parameter.numel(), REGISTERS // parameter.element_size()
    start = rows_of(parameter)[parameter.device_mesh.get_local_rank()].start * (whole // parameter.shape[0])
    rest = whole - whole % unit  # from here on the whole tensor fills no registers
    full = min(max(rest - start, 0), count)
    even = full - full % unit
    parts = (
        (slice(0, even), 0, even),
        (slice(even, full), 0, unit),
        (slice(full, count), start + full - rest, whole - rest),
    )
    yield from (part for part in parts if part[0].stop > part[0].start)


def _fused(tensors: Sequence[tuple[Tensor, ...]], steps: Sequence[Tensor], group: Mapping[str, Any]) -> None:
    if not tensors:
        return
    parameters, gradients, averages, squares = (list(each) for each in zip(*tensors, strict=True))
    beta1, beta2 = group["betas"]
    torch_adamw(
        parameters,
        gradients,
        averages,
        squares,
        [],
        list(steps),
        fused=group["fused"],
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
