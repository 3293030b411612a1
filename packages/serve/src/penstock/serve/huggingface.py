"""A model in the Hugging Face layout: the one that transformers loads without conversion.

The tensors are those of `published_state()`, or of `export_state(materialize=True)`: software without our quantizers
computes the same logits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from penstock.hooks.contracts import LanguageModel, Publishable
from penstock.hooks.problems import Problem, ProblemError
from penstock.serve.folders import replaced_folder
from penstock.serve.tokenizer import SPECIAL, tokenizer_config, with_begin
from penstock.serve.weights import write_weights

Dtype = Literal["bfloat16", "float32"]
Engine = Literal["transformers", "vllm", "sglang"]

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


class HuggingFaceExporter:
    """Exporter of `config.json`, `generation_config.json`, safetensors and tokenizer.

    Weights are stored as `dtype`, except those that must stay fp32; `shard_bytes` limits the size of a file. For an
    `engine` other than transformers a tied head is stored too: vLLM's Glm4Moe ignores that the config ties it, and
    serves noise with the head that is missing.
    """

    def __init__(
        self, dtype: Dtype = "bfloat16", shard_bytes: int = 5_000_000_000, engine: Engine = "transformers"
    ) -> None:
        if dtype not in get_args(Dtype):
            raise ValueError(f"hf: dtype must be 'bfloat16' or 'float32', not {dtype!r}")
        if shard_bytes <= 0:
            raise ValueError(f"hf: shard_bytes must be positive, not {shard_bytes}")
        if engine not in get_args(Engine):
            raise ValueError(f"hf: engine must be one of {', '.join(get_args(Engine))}, not {engine!r}")
        self.dtype: Dtype = dtype
        self.engine: Engine = engine
        self.shard_bytes = shard_bytes

    def export(self, model: LanguageModel, tokenizer_file: Path, folder: Path) -> list[Path]:
        """Writes the model to `folder`, all or nothing, checks what was written, and returns the files.

        Replaces an earlier export. Raises `ProblemError` if the folder contains anything else, if tokenizer and model
        do not match, if no published architecture computes what the model does, or if the config ties the head but it
        differs from the embedding.
        """
        own = config_of(model)
        _require_known_architecture(own)
        # transformers 5 reads `dtype`, older versions and other engines read `torch_dtype`.
        config = {**with_begin(own, tokenizer_file), "dtype": self.dtype, "torch_dtype": self.dtype}
        documents = {
            "generation_config.json": _generation_config(config),
            "tokenizer_config.json": tokenizer_config(tokenizer_file, config, model.vocabulary_size),
        }
        with replaced_folder(folder) as temporary:
            with torch.no_grad():
                state = _without_tied_head(state_of(model), config)
                if self.engine != "transformers":
                    config, state = _untied(config, state)
                write_weights(state, temporary, dtype=getattr(torch, self.dtype), shard_bytes=self.shard_bytes)
            for name, document in {"config.json": config, **documents}.items():
                (temporary / name).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            shutil.copyfile(tokenizer_file, temporary / "tokenizer.json")
        return sorted(folder.iterdir())


def _require_known_architecture(config: Mapping[str, Any]) -> None:
    """A `model_type` of our own means that no published architecture computes the same as the model."""
    if str(config.get("model_type", "")).startswith("penstock_"):
        what = "transformers has no such architecture"
        fix = "train glm-moe or hf, or write an exporter for it"
        raise ProblemError(Problem("not-exportable", what, str(config["model_type"]), fix))


def _generation_config(config: Mapping[str, Any]) -> dict[str, Any]:
    names = (f"{role}_id" for role in SPECIAL)
    return {name: config[name] for name in names if config.get(name) is not None}


def config_of(model: LanguageModel) -> dict[str, Any]:
    """The `config.json` of a model as other software reads it."""
    return model.published_config() if isinstance(model, Publishable) else model.export_config()


def state_of(model: LanguageModel) -> dict[str, Tensor]:
    """The tensors of a model as other software reads them, with quantizers applied."""
    return model.published_state() if isinstance(model, Publishable) else model.export_state(materialize=True)


def _without_tied_head(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A tied head is not stored: the loader makes it from the embedding, so a different head would be lost."""
    if not config.get("tie_word_embeddings") or HEAD not in state:
        return dict(state)
    if EMBEDDING not in state or not torch.equal(state[HEAD], state[EMBEDDING]):
        what = f"the config ties the embeddings, but '{HEAD}' differs from '{EMBEDDING}'"
        raise ProblemError(Problem("not-shared", what, "export", "share them or set tie_word_embeddings to false"))
    return {name: tensor for name, tensor in state.items() if name != HEAD}


def _untied(config: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """With a tied head as a tensor of its own. Architectures with other names (gpt2) are tied by every engine."""
    if not config.get("tie_word_embeddings") or EMBEDDING not in state:
        return config, state
    return {**config, "tie_word_embeddings": False}, {**state, HEAD: state[EMBEDDING]}
