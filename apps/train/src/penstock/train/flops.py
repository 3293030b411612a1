"""FLOPs of a composed model, by the rule that `penstock plan` counts by before there is a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from penstock.hooks.architecture import architecture_settings
from penstock.hooks.contracts import ParameterRole, Prediction
from penstock.moe_core.plan.weights import attention_flops, training_flops
from penstock.run.config import RunConfig
from penstock.train.compose import Composition, share_of_experts
from penstock.train.weights import sites_of

VECTORS = (ParameterRole.NORM, ParameterRole.BIAS)


def flops_of_training(config: RunConfig, composition: Composition) -> int:
    """FLOPs of training for each token: see `flops_of_forward`. What is frozen counts as if it trained."""
    return training_flops(flops_of_forward(config, composition))


def flops_of_forward(config: RunConfig, composition: Composition) -> int:
    """FLOPs of a token in a forward pass: two for each number that multiplies it, and those of attention, the mean over
    the positions of a sequence of the config's length. A shared weight counts for each use, k of E experts, and a row
    that is looked up not at all. What a transform does to a weight, which is once a step, is left out."""
    causal = architecture_settings(config.model).predicts == Prediction.NEXT_TOKEN
    layers, width = _attention(composition.model.export_config())
    attention = attention_flops(layers, width, config.data.sequence_length, causal=causal)
    sizes = list(_products(composition))
    routed = sum(size for role, size in sizes if role == ParameterRole.EXPERT)
    rest = sum(size for role, size in sizes if role != ParameterRole.EXPERT)
    return 2 * (rest + round(routed * share_of_experts(composition))) + attention


def _products(composition: Composition) -> Iterator[tuple[ParameterRole, int]]:
    """Role and size of the weight of each product, one for each use."""
    roles, sites = composition.roles(), sites_of(composition.model)
    first = {id(each): name for name, each in composition.module.named_parameters()}
    of_weights = composition.shared.roles().keys() - sites.keys()
    for _, module in composition.module.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Embedding):
            continue
        for parameter in module.parameters(recurse=False):
            name = first[id(parameter)]
            if roles[name] not in VECTORS and name not in of_weights:
                yield roles[name], parameter.numel()


def _attention(config: Mapping[str, Any]) -> tuple[int, int]:
    """Layers with attention, and the width of their heads together, as a config.json names them; (0, 0) without."""
    layers, heads, width = (
        next((config[name] for name in names if isinstance(config.get(name), int)), 0)
        for names in (
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("hidden_size", "n_embd"),
        )
    )
    head = config.get("head_dim")
    return (layers, heads * (head if isinstance(head, int) else width // heads)) if heads else (0, 0)
