"""Our names to and from the names of `glm4_moe` checkpoints on the Hugging Face hub.

In memory a layer's experts are two stacked tensors; on disk they are one file entry an expert. Everything else differs
by the prefix `model.` alone. The stacked layout that transformers 5 keeps in memory is read too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from penstock.hooks.contracts import Router
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.moe_core.config import GlmMoeConfig

_EXPERT = re.compile(r"(?P<prefix>.*\.mlp\.experts)\.(?P<expert>\d+)\.(?P<matrix>gate|up|down)_proj\.weight")


def to_hub_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One entry an expert and matrix; views of the stacked tensors, no copies."""
    hub: dict[str, Tensor] = {}
    for name, tensor in state.items():
        target = name if name.startswith("lm_head.") else f"model.{name}"
        if name.endswith(".mlp.experts.gate_up_proj"):
            prefix = target.removesuffix(".gate_up_proj")
            for expert, (gate, up) in enumerate(zip(*(half.unbind(0) for half in tensor.chunk(2, dim=1)), strict=True)):
                hub[f"{prefix}.{expert}.gate_proj.weight"] = gate
                hub[f"{prefix}.{expert}.up_proj.weight"] = up
        elif name.endswith(".mlp.experts.down_proj"):
            prefix = target.removesuffix(".down_proj")
            hub.update({f"{prefix}.{expert}.down_proj.weight": down for expert, down in enumerate(tensor.unbind(0))})
        else:
            hub[target] = tensor
    return hub


def from_hub_names(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `to_hub_names`; multi-token-prediction layers (beyond the model's last) are left out."""
    layers = 1 + max((int(name.split(".")[1]) for name in own if name.startswith("layers.")), default=-1)
    loaded: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in state.items():
        local = name.removeprefix("model.")
        if local.startswith("layers.") and int(local.split(".")[1]) >= layers:
            continue
        if match := _EXPERT.fullmatch(local):
            stacks.setdefault(match["prefix"], {}).setdefault(int(match["expert"]), {})[match["matrix"]] = tensor
        else:
            loaded[local] = tensor
    for prefix, experts in stacks.items():
        _check_complete(prefix, experts, own)
        ordered = [experts[index] for index in range(len(experts))]
        loaded[f"{prefix}.gate_up_proj"] = torch.stack([torch.cat((one["gate"], one["up"])) for one in ordered])
        loaded[f"{prefix}.down_proj"] = torch.stack([one["down"] for one in ordered])
    return loaded


def _check_complete(prefix: str, experts: Mapping[int, Mapping[str, Tensor]], own: Mapping[str, Tensor]) -> None:
    count = len(own[f"{prefix}.down_proj"]) if f"{prefix}.down_proj" in own else len(experts)
    missing = [
        f"{prefix}.{expert}.{matrix}_proj.weight"
        for expert in range(count)
        for matrix in ("gate", "up", "down")
        if matrix not in experts.get(expert, {})
    ]
    if missing or len(experts) != count:
        what = f"missing: {', '.join(missing[:3])}" if missing else f"{len(experts)} experts, and the model has {count}"
        raise ProblemError(Problem("bad-checkpoint", f"the experts of {prefix} do not fit the model", "", what))


def check_names(loaded: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises `ProblemError` with every missing, unknown and wrongly shaped tensor."""
    problems = [Problem("bad-checkpoint", f"tensor '{name}' is missing") for name in own if name not in loaded]
    for name, tensor in loaded.items():
        if name not in own:
            problems.append(
                Problem("bad-checkpoint", f"tensor '{name}' is not part of the model", "", did_you_mean(name, own))
            )
        elif tensor.shape != own[name].shape:
            problems.append(
                Problem(
                    "bad-checkpoint",
                    f"tensor '{name}' is {list(tensor.shape)}, and the model's is {list(own[name].shape)}",
                )
            )
    if problems:
        raise ProblemError(problems)


def to_hub_config(config: GlmMoeConfig, routers: Mapping[int, Router], *, tied: bool) -> dict[str, Any]:
    """`config.json` of `Glm4MoeForCausalLM`, with the rotary settings in both spellings.

    transformers knows one router for all layers, sigmoid scores with top-k; a model with any other is written with a
    `model_type` of its own, which transformers refuses instead of computing something else.
    """
    kinds = {
        (
            getattr(router, "score_function", None),
            router.k,
            getattr(router, "normalize", True),
            getattr(router, "scale", 1.0),
            getattr(router, "groups", 1),
            getattr(router, "groups_kept", 1),
        )
        for router in routers.values()
    } or {("sigmoid", 1, True, 1.0, 1, 1)}
    score, k, normalize, scale, groups, groups_kept = next(iter(kinds))
    standard = len(kinds) == 1 and score == "sigmoid"
    return {
        "architectures": ["Glm4MoeForCausalLM" if standard else "PenstockGlmMoe"],
        "model_type": "glm4_moe" if standard else "penstock_glm_moe",
        **{name: getattr(config, name) for name in _SAME_NAME},
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "n_group": groups,
        "norm_topk_prob": normalize,
        "num_experts_per_tok": k,
        "num_nextn_predict_layers": 0,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": config.partial_rotary_factor,
        },
        "rope_scaling": None,
        "routed_scaling_factor": scale,
        "tie_word_embeddings": tied,
        "topk_group": groups_kept,
        "dtype": "float32",
    }


_SAME_NAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "first_k_dense_replace",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "attention_bias",
    "use_qk_norm",
    "partial_rotary_factor",
    "rope_theta",
    "max_position_embeddings",
    "intermediate_size",
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "rms_norm_eps",
    "initializer_range",
    "eos_token_id",
)
