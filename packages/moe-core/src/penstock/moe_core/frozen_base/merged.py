"""Merges a frozen base and its experts into one `GlmMoe`, if that architecture can represent them.

Its layers are dense up to some layer and mixtures of experts from there on, with a shared expert that sees every token.
Experts next to an MLP become its experts and the MLP its shared expert; experts in place of an MLP become experts
without a shared one.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from penstock.hooks.problems import Problem, ProblemError
from penstock.moe_core.frozen_base.adapters import RoutedExperts
from penstock.moe_core.glm.model import GlmMoe
from penstock.moe_core.layers.experts import Experts


def merge(base: Any, adapters: dict[int, RoutedExperts], *, beside: bool) -> GlmMoe:
    """An equivalent model; raises `ProblemError` if no `GlmMoe` is equivalent."""
    sizes = _sizes(base, adapters, beside=beside)
    config = base.config.model_copy(update={**sizes, "pretrained": None, "vocab_size": base.vocabulary_size})
    with torch.random.fork_rng(devices=[]):
        gates = {layer: _at_temperature_1(adapter.gate) for layer, adapter in adapters.items()}
        model = GlmMoe(config, make_router=lambda layer, **_: gates[layer])
    state: dict[str, Tensor] = dict(base.state_dict())
    for layer, adapter in adapters.items():
        mlp = f"layers.{layer}.mlp."
        for name in [name for name in state if name.startswith(mlp)]:
            weight = state.pop(name)
            if beside:
                state[name.replace(mlp, f"{mlp}shared_experts.")] = weight
        state |= {f"{mlp}gate.{name}": tensor for name, tensor in gates[layer].state_dict().items()}
        experts: Any = adapter.experts
        gate_up, down = experts.effective_weights()
        state |= {f"{mlp}experts.gate_up_proj": gate_up, f"{mlp}experts.down_proj": down}
    model.load_state_dict(state)
    return model.eval()


def _at_temperature_1(gate: Any) -> Any:
    """The same router for software without a temperature: the gate's weights are scaled instead."""
    own = copy.deepcopy(gate)
    temperature = getattr(own, "temperature", 1.0)
    weight = getattr(own, "weight", None)
    if temperature != 1.0 and isinstance(weight, Tensor):
        with torch.no_grad():
            weight.div_(temperature)
        own.temperature = 1.0
    return own


def _sizes(base: Any, adapters: dict[int, RoutedExperts], *, beside: bool) -> dict[str, Any]:
    if not isinstance(base, GlmMoe) or base.routers:
        raise _cannot("experts next to experts" if isinstance(base, GlmMoe) else f"a {type(base).__name__} as its base")
    first, last = min(adapters), base.config.num_hidden_layers - 1
    if missing := [layer for layer in range(first, last + 1) if layer not in adapters]:
        raise _cannot(f"dense layers after the first one with experts ({', '.join(map(str, missing))})")
    stacks = [adapter.experts for adapter in adapters.values() if isinstance(adapter.experts, Experts)]
    experts, _, hidden = stacks[0].down_proj.shape
    if beside and base.config.intermediate_size % hidden:
        raise _cannot(f"MLPs of width {base.config.intermediate_size} next to experts of width {hidden}")
    return {
        "first_k_dense_replace": first,
        "n_routed_experts": experts,
        "moe_intermediate_size": hidden,
        "n_shared_experts": base.config.intermediate_size // hidden if beside else 0,
    }


def _cannot(what: str) -> ProblemError:
    fix = (
        "use a dense glm-moe base, a sigmoid-topk router, experts in every layer from the first to the last, and "
        "an expert_size that divides the MLPs' width"
    )
    return ProblemError(Problem("not-exportable", f"no exportable architecture has {what}", "model", fix))
