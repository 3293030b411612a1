"""Merges a frozen base and its experts into one `GlmMoe`, if that architecture can represent them (`mergeable`)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from penstock.hooks.problems import ProblemError
from penstock.moe_core.frozen_base.adapters import RoutedExperts
from penstock.moe_core.frozen_base.mergeable import merged_config
from penstock.moe_core.glm.model import GlmMoe
from penstock.moe_core.hub.export import ROUNDED_INPUTS
from penstock.moe_core.layers.experts import Experts
from penstock.moe_core.layers.site import sites_of


def merge(base: Any, adapters: dict[int, RoutedExperts], *, beside: bool) -> GlmMoe:
    """An equivalent model; raises `ProblemError` if no `GlmMoe` is equivalent."""
    stacks = [adapter.experts for adapter in adapters.values() if isinstance(adapter.experts, Experts)]
    if any(site.site.reads for stack in stacks for site in sites_of(stack).values()):
        raise ProblemError(ROUNDED_INPUTS)
    experts, _, hidden = stacks[0].down_proj.shape if stacks else (0, 0, 0)
    described = base.config if isinstance(base, GlmMoe) else None
    config = merged_config(described, adapters, experts=experts, expert_size=hidden, beside=beside)
    config = config.model_copy(update={"vocab_size": base.vocabulary_size})
    with torch.random.fork_rng(devices=[]):
        gates: dict[int, Any] = {layer: copy.deepcopy(adapter.gate) for layer, adapter in adapters.items()}
        model = GlmMoe(config, make_router=lambda layer, **_: gates[layer])
    state: dict[str, Tensor] = dict(base.state_dict())
    for layer, adapter in adapters.items():
        mlp = f"layers.{layer}.mlp."
        for name in [name for name in state if name.startswith(mlp)]:
            weight = state.pop(name)
            if beside:
                state[name.replace(mlp, f"{mlp}shared_experts.")] = weight
        state |= {f"{mlp}gate.{name}": tensor for name, tensor in gates[layer].state_dict().items()}
        made: Any = adapter.experts
        gate_up, down = made.effective_weights()
        state |= {f"{mlp}experts.gate_up_proj": gate_up, f"{mlp}experts.down_proj": down}
    model.load_state_dict(state)
    return model.eval()
