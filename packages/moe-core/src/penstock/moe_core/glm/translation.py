"""Config and tensors of a `GlmMoe` in the layout of another class of transformers (see `layouts`).

Every rewriting is exact: zeros, a permutation, a factor that is a power of two. A scale or a temperature that is none
rounds each weight once.

Shape suffixes: D model width, E experts, H heads, W width of a head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from penstock.moe_core.glm.config import GlmMoeConfig
from penstock.moe_core.glm.layouts import CLASSES, Layout, RouterRule

BIAS = ".mlp.gate.e_score_correction_bias"
GATE = ".mlp.gate.weight"
DOWN = re.compile(r".*\.mlp\.experts\.\d+\.down_proj\.weight")
SHARED = re.compile(r"(?P<mlp>.*\.mlp)\.shared_experts\.(?P<matrix>gate|up|down)_proj\.weight")
MIXTRAL = (
    (".mlp.", ".block_sparse_moe."),
    (".gate_proj.", ".w1."),
    (".up_proj.", ".w3."),
    (".down_proj.", ".w2."),
)

_SAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "initializer_range",
    "eos_token_id",
)


def translated_config(layout: Layout, config: GlmMoeConfig, rule: RouterRule, *, tied: bool) -> dict[str, Any]:
    """`config.json` of a class with softmax routers."""
    experts = {"num_experts_per_tok": rule.k, "output_router_logits": False}
    common = {
        "architectures": [CLASSES[layout]],
        "model_type": layout,
        **{name: getattr(config, name) for name in _SAME},
        **experts,
        # Defaults of these classes that are ids of another tokenizer.
        "bos_token_id": None,
        "pad_token_id": None,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "dtype": "float32",
    }
    if layout == "mixtral":
        own = {"num_local_experts": config.n_routed_experts, "intermediate_size": config.moe_intermediate_size}
        return {**common, **own, "router_jitter_noise": 0.0}
    qwen = {
        "num_experts": config.n_routed_experts,
        "moe_intermediate_size": config.moe_intermediate_size,
        "intermediate_size": config.intermediate_size,
        "norm_topk_prob": rule.normalize,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(range(config.first_k_dense_replace)),
        "use_sliding_window": False,
    }
    shared = {"shared_expert_intermediate_size": config.n_shared_experts * config.moe_intermediate_size}
    match layout:
        case "qwen3_moe":
            return {**common, **qwen, "attention_bias": config.attention_bias}
        case "qwen2_moe":
            return {**common, **qwen, **shared, "qkv_bias": True}
        case _:
            return {**common, **qwen, **shared, **_of_qwen3_next(config)}


def _of_qwen3_next(config: GlmMoeConfig) -> dict[str, Any]:
    rope = {"rope_theta": config.rope_theta, "partial_rotary_factor": config.partial_rotary_factor}
    return {
        "attention_bias": config.attention_bias,
        "layer_types": ["full_attention"] * config.num_hidden_layers,
        "partial_rotary_factor": config.partial_rotary_factor,
        "rope_parameters": {"rope_type": "default", **rope},
    }


@torch.no_grad()
def translated_state(layout: Layout, config: GlmMoeConfig, rule: RouterRule, state: Mapping[str, Tensor]) -> Any:
    """The tensors of a `GlmMoe` under the hub's names for `glm4_moe`, under those of `layout`."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(BIAS):
            continue
        scaled = tensor * rule.scale if DOWN.fullmatch(name) and rule.scale != 1 else tensor
        if layout == "mixtral":
            for ours, theirs in MIXTRAL:
                name = name.replace(ours, theirs)
            tensors[name] = scaled
        else:
            tensors |= _shared_expert(name, scaled)
    if layout in ("qwen2_moe", "qwen3_next"):
        tensors |= _gates_of_shared_experts(config, tensors)
    if layout == "qwen3_next":
        tensors = _with_gated_attention(config, tensors)
    if layout != "mixtral":
        tensors = _biases_of_attention(layout, config, tensors) | tensors
    return tensors


def _shared_expert(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """The shared expert of Qwen2Moe; its gate halves what it adds, so its last matrix is doubled."""
    match = SHARED.fullmatch(name)
    if match is None:
        return {name: tensor}
    doubled = tensor * 2 if match["matrix"] == "down" else tensor
    return {f"{match['mlp']}.shared_expert.{match['matrix']}_proj.weight": doubled}


def _gates_of_shared_experts(config: GlmMoeConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gates of zeros, sigmoid(0) = 0.5, and shared experts without width where the model has none."""
    like = tensors["model.embed_tokens.weight"]
    added: dict[str, Tensor] = {}
    for layer in config.expert_layers:
        mlp = f"model.layers.{layer}.mlp"
        added[f"{mlp}.shared_expert_gate.weight"] = like.new_zeros(1, config.hidden_size)
        if not config.n_shared_experts:
            added |= _without_width(f"{mlp}.shared_expert", like, config.hidden_size)
    return added


def absent_parts(config: GlmMoeConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What Glm4Moe expects in a file although the model has no such part: shared experts without width, and a bias of
    zeros for a router without one."""
    like = state["model.embed_tokens.weight"]
    added: dict[str, Tensor] = {}
    for layer in config.expert_layers:
        mlp = f"model.layers.{layer}.mlp"
        if not config.n_shared_experts:
            added |= _without_width(f"{mlp}.shared_experts", like, config.hidden_size)
        if f"model.layers.{layer}{BIAS}" not in state:
            added[f"model.layers.{layer}{BIAS}"] = like.new_zeros(config.n_routed_experts, dtype=torch.float32)
    return added


def _without_width(mlp: str, like: Tensor, hidden_size: int) -> dict[str, Tensor]:
    """A SwiGLU that adds nothing. transformers builds it, and reports tensors that a file lacks as missing."""
    return {
        f"{mlp}.gate_proj.weight": like.new_zeros(0, hidden_size),
        f"{mlp}.up_proj.weight": like.new_zeros(0, hidden_size),
        f"{mlp}.down_proj.weight": like.new_zeros(hidden_size, 0),
    }


def _with_gated_attention(config: GlmMoeConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Qwen3Next gates what attention returns, by rows of `q_proj` that follow those of each head: zeros, and an output
    projection of twice the size. Its norms store their weight minus 1, which is exact for weights from 0.5 to 2."""
    changed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith((".self_attn.q_proj.weight", ".self_attn.q_proj.bias")):
            head_HW = tensor.unflatten(0, (config.num_attention_heads, config.head_dim))
            changed[name] = torch.cat((head_HW, torch.zeros_like(head_HW)), dim=1).flatten(0, 1)
        elif name.endswith(".self_attn.o_proj.weight"):
            changed[name] = tensor * 2
        elif name.endswith("norm.weight"):
            changed[name] = tensor - 1
        else:
            changed[name] = tensor
    return changed


def _biases_of_attention(layout: Layout, config: GlmMoeConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for the projections whose bias the model lacks and the class does not: q, k and v of Qwen2Moe, which some
    engines always give one, and the output of the others if q, k and v have one."""
    projections = ("q_proj", "k_proj", "v_proj") if layout == "qwen2_moe" else ("o_proj",) * config.attention_bias
    weights = {
        f"model.layers.{layer}.self_attn.{projection}": tensors[f"model.layers.{layer}.self_attn.{projection}.weight"]
        for layer in range(config.num_hidden_layers)
        for projection in projections
    }
    return {f"{name}.bias": weight.new_zeros(weight.shape[0]) for name, weight in weights.items()}
