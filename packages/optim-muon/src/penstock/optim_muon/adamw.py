"""AdamW with one param group per role: the baseline for Muon."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from penstock.hooks.contracts import ParameterRole
from penstock.optim_muon.roles import NO_DECAY, Parameters, checked_rates, distinct


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
    groups = [
        {
            "params": list(named.values()),
            "role": role.value,
            "rule": "adamw",
            "lr": rates.get(role, lr),
            "initial_lr": rates.get(role, lr),
            "weight_decay": 0.0 if role in NO_DECAY else weight_decay,
        }
        for role, named in distinct(parameters).items()
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
