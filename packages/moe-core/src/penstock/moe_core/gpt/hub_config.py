"""The `config.json` of `gpt2` checkpoints on the Hugging Face hub, written and read. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.moe_core.hub.config_file import CONFIG_FILE, read_config, require_supported, require_whole_numbers
from penstock.moe_core.hub.export import RANK

if TYPE_CHECKING:
    from penstock.moe_core.gpt.config import GptConfig

READS = "a gpt can start from Hugging Face's gpt2"

_SIZES = {
    "vocab_size": "vocab_size",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
_SAME_NAME = ("layer_norm_epsilon", "initializer_range", "tie_word_embeddings", "eos_token_id")

# The defaults of transformers for missing fields; a file without sizes is refused.
_ABSENT = {
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "eos_token_id": None,
    "activation_function": "gelu_new",
}

# The names of one function differ; `gelu_fast` and `quick_gelu` are other functions.
_ACTIVATIONS = {"gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh", "gelu": "gelu"}
_WRITTEN = {"gelu-tanh": "gelu_new", "gelu": "gelu"}

# What a config says whose class transformers has.
GPT2: dict[str, Any] = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
OWN: dict[str, Any] = {"architectures": ["PenstockGpt"], "model_type": "penstock_gpt"}


def to_hub_config(config: GptConfig, *, tied: bool, standard: bool, rank: int | None = None) -> dict[str, Any]:
    """`config.json` of `GPT2LMHeadModel`; a model or layout that transformers does not know (not `standard`) has a
    `model_type` of its own, so that transformers refuses it instead of computing something else."""
    return {
        **(GPT2 if standard else OWN),
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        **{name: getattr(config, name) for name in _SAME_NAME},
        "n_inner": config.mlp_size,
        "activation_function": _WRITTEN[config.activation],
        "tie_word_embeddings": tied,
        # Defaults of transformers that are ids of another tokenizer, and dropout that the model was not trained with.
        "bos_token_id": None,
        "pad_token_id": None,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "dtype": "float32",
        **({"sub_norm": True} if config.sub_norm else {}),
        **({} if rank is None else {RANK: rank}),
    }


def read_settings(folder: Path) -> dict[str, Any]:
    """The fields of `GptConfig` from the `config.json` of a folder.

    Raises `ProblemError` if the file is missing, belongs to another family, asks for something that `Gpt` does not
    compute, or lacks sizes (all are named). Dropout, and the dtype of attention scores, are left out: both change
    training alone, or rounding.
    """
    path, document = folder / CONFIG_FILE, read_config(folder, "gpt2", READS)
    require_supported(_asked(document), path)
    values = {**_ABSENT, **document}
    require_whole_numbers(values, (*_SIZES, *(["n_inner"] if values.get("n_inner") is not None else [])), path)
    return {
        **{ours: values[theirs] for theirs, ours in _SIZES.items()},
        **{name: values[name] for name in _SAME_NAME},
        "intermediate_size": values.get("n_inner") or 4 * values["n_embd"],
        "activation": _ACTIVATIONS[values["activation_function"]],
    }


def _asked(document: Mapping[str, Any]) -> dict[str, tuple[Any, list[Any]]]:
    """Fields that change what is computed: their value, and those that are supported."""
    return {
        "activation_function": (document.get("activation_function", "gelu_new"), [*_ACTIVATIONS]),
        "scale_attn_weights": (document.get("scale_attn_weights", True), [True]),
        "scale_attn_by_inverse_layer_idx": (document.get("scale_attn_by_inverse_layer_idx", False), [False]),
        "add_cross_attention": (document.get("add_cross_attention", False), [False]),
    }
