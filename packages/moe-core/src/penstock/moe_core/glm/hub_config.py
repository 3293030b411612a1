"""The `config.json` of `glm4_moe` checkpoints on the Hugging Face hub, written and read. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.hooks.contracts import Router
from penstock.moe_core.hub.config_file import CONFIG_FILE, read_config, require_supported, require_whole_numbers
from penstock.moe_core.hub.export import RANK

if TYPE_CHECKING:
    from penstock.moe_core.glm.config import GlmMoeConfig

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
    "max_position_embeddings",
    "intermediate_size",
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "rms_norm_eps",
    "initializer_range",
    "tie_word_embeddings",
    "eos_token_id",
)

_WHOLE_NUMBERS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "first_k_dense_replace",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
)

# The defaults of transformers for missing fields. Its defaults for sizes, those of GLM-4.5-Air, are not used: a
# file without sizes is refused.
_ABSENT = {
    "first_k_dense_replace": 1,
    "attention_bias": False,
    "use_qk_norm": False,
    "max_position_embeddings": 131_072,
    "n_shared_experts": 1,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "eos_token_id": None,
    "hidden_act": "silu",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
}


READS = "a model can start from Hugging Face's glm4_moe (GLM-4.5, 4.6, 4.7) and from llama2.c files of version 0"

# What a config says whose class transformers has.
GLM4_MOE: dict[str, Any] = {"architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe"}


def to_hub_config(
    config: GlmMoeConfig,
    routers: Mapping[int, Router],
    *,
    tied: bool,
    prediction_layers: int,
    rank: int | None = None,
    plain: bool = True,
) -> dict[str, Any]:
    """`config.json` of `Glm4MoeForCausalLM`, with the rotary settings in both spellings.

    transformers supports one router for all layers: sigmoid scores with top-k. A model with any other router gets its
    own `model_type`, so that transformers refuses it instead of computing something else; so does one with `sub_norm`,
    with an embedding of a `rank`, and one that is not `plain` because sharing added other parts.
    """
    kinds = {
        (
            getattr(router, "score_function", None),
            router.k,
            getattr(router, "normalize", True),
            getattr(router, "scale", 1.0),
            getattr(router, "groups", 1),
            getattr(router, "groups_kept", 1),
            getattr(router, "temperature", 1.0) == 1.0 and getattr(router, "capacity", None) is None,
        )
        for router in routers.values()
    } or {("sigmoid", 1, True, 1.0, 1, 1, True)}
    score, k, normalize, scale, groups, groups_kept, whole = next(iter(kinds))
    standard = len(kinds) == 1 and score == "sigmoid" and whole and not config.sub_norm and plain and rank is None
    return {
        "architectures": ["Glm4MoeForCausalLM" if standard else "PenstockGlmMoe"],
        "model_type": "glm4_moe" if standard else "penstock_glm_moe",
        **{name: getattr(config, name) for name in _SAME_NAME},
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "n_group": groups,
        "norm_topk_prob": normalize,
        "num_experts_per_tok": k,
        "num_nextn_predict_layers": prediction_layers,
        "partial_rotary_factor": config.partial_rotary_factor,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": config.partial_rotary_factor,
        },
        "rope_scaling": None,
        "rope_theta": config.rope_theta,
        "routed_scaling_factor": scale,
        "tie_word_embeddings": tied,
        "topk_group": groups_kept,
        "dtype": "float32",
        **({"sub_norm": True} if config.sub_norm else {}),
        **({} if rank is None else {RANK: rank}),
    }


def read_settings(folder: Path) -> dict[str, Any]:
    """The fields of `GlmMoeConfig`, including the router, from the `config.json` of a folder.

    Raises `ProblemError` if the file is missing, belongs to another family, asks for something that `GlmMoe` does not
    compute, or lacks sizes (all are named).
    """
    path, document = folder / CONFIG_FILE, read_config(folder, "glm4_moe", READS)
    _require_supported(document, path)
    values = {**_ABSENT, **document}
    require_whole_numbers(values, _WHOLE_NUMBERS, path)
    if values.get("head_dim") is None:
        values["head_dim"] = values["hidden_size"] // max(1, values["num_attention_heads"])
    rope = _rope(document)
    settings = {
        **{name: values[name] for name in _SAME_NAME},
        "rope_theta": rope.get("rope_theta", 10_000.0),
        "partial_rotary_factor": rope.get("partial_rotary_factor", 0.5),
    }
    if values["first_k_dense_replace"] < values["num_hidden_layers"]:
        settings["router"] = {
            "use": "sigmoid-topk",
            "k": values["num_experts_per_tok"],
            "normalize": values["norm_topk_prob"],
            "scale": values["routed_scaling_factor"],
            "groups": values["n_group"],
            "groups_kept": values["topk_group"],
        }
    return settings


def _rope(document: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings in the spelling of transformers 5 (`rope_parameters`), whichever one the file has."""
    top = {name: document[name] for name in ("rope_theta", "partial_rotary_factor") if name in document}
    parts = [document.get(name) for name in ("rope_scaling", "rope_parameters")]
    return top | {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}


def _require_supported(document: Mapping[str, Any], path: Path) -> None:
    rope = _rope(document)
    asked = {
        "hidden_act": (document.get("hidden_act", "silu"), ["silu"]),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), ["default"]),
    }
    require_supported(asked, path)
