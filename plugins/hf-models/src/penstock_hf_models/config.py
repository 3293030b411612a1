"""Settings of the architecture `hf`: which model of transformers, and whether its weights are random or pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from penstock.hooks.architecture import LARGEST_SIZE, ArchitectureSettings, promised_positions
from penstock.hooks.contracts import Prediction
from penstock.hooks.inputs import InputPath, expanded
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import ProblemError

Task = Literal["causal", "masked", "seq2seq"]

# Fields of a transformers config that are written next to `settings`, because Penstock sets them if the user does not.
BESIDE = ("vocab_size", "eos_token_id")


class HfConfig(ArchitectureSettings):
    """A model of transformers, given by exactly one of `model_type`, `config_file` and `pretrained`."""

    task: Task = "causal"
    """What the model predicts: the next token (causal), hidden tokens (masked), or one text from another (seq2seq).
    `penstock train` trains causal models, and masked ones with the objective `masked-lm`."""
    model_type: str | None = None
    """A model type of transformers, such as gpt2, mixtral or qwen3_moe; its weights are random."""
    settings: dict[str, Any] = {}
    """Fields of the model's transformers config; missing fields have that config's defaults."""
    config_file: InputPath | None = None
    """A config.json, or a folder with one. The weights are random, and `settings` override its fields."""
    pretrained: str | None = None
    """A folder, or a name on the hub, to take config and weights from."""
    revision: str | None = None
    """Branch, tag or commit of a name on the hub."""
    vocab_size: int | None = Field(default=None, gt=0, le=LARGEST_SIZE)
    """Rows of the embedding; null uses those of the file or pretrained model, or else the tokenizer's."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        """A mixture of experts that declares no more than every model of transformers keeps: it drops attention out."""
        sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "attention_dropout": 0.1}
        experts = {"num_experts": 4, "num_experts_per_tok": 2}
        return {"model_type": "qwen3_moe", "settings": {**sizes, **heads, **experts}}

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """Layers whose router the config chooses: none, because a transformers model has its own routers."""
        return ()

    @property
    def predicts(self) -> Prediction:
        return Prediction.MASKED if self.task == "masked" else Prediction.NEXT_TOKEN

    @property
    def max_positions(self) -> int | None:
        """From `settings` or a local config.json; the field's name varies by model type."""
        given = self.settings if self.pretrained is None else {}
        return promised_positions({**_config(self.config_file or self.pretrained), **given})

    @model_validator(mode="before")
    @classmethod
    def _vocabulary_of_the_file(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("vocab_size") is not None:
            return data
        known = _vocabulary(data.get("config_file") or data.get("pretrained"))
        return data if known is None else {**data, "vocab_size": known}

    @field_validator("router", "quantizer", "overrides", mode="before")
    @classmethod
    def _brings_its_own(cls, value: Any) -> Any:
        if value:
            raise ValueError(
                "a transformers model has its own routers and plain weights: remove it, or use an architecture "
                "that supports it, such as glm-moe"
            )
        return value

    @field_validator("settings")
    @classmethod
    def _what_stands_beside(cls, settings: dict[str, Any]) -> dict[str, Any]:
        if named := [name for name in BESIDE if name in settings]:
            raise ValueError(f"write {' and '.join(named)} next to `settings`, not inside it")
        return settings

    @model_validator(mode="after")
    def _one_origin(self) -> HfConfig:
        origins = [name for name in ("model_type", "config_file", "pretrained") if getattr(self, name) is not None]
        if len(origins) != 1:
            found = " and ".join(origins) if origins else "none of them"
            raise ValueError(f"write one of model_type, config_file and pretrained, not {found}")
        if self.settings and self.pretrained is not None:
            raise ValueError("settings apply only to models with random weights; a pretrained model has its own config")
        if self.revision is not None and self.pretrained is None:
            raise ValueError("revision needs pretrained")
        if self.pretrained is not None and _vocabulary(self.pretrained) not in (None, self.vocab_size):
            raise ValueError(
                f"vocab_size is {self.vocab_size}, but the pretrained model has {_vocabulary(self.pretrained)}"
            )
        return self


def _vocabulary(origin: Any) -> int | None:
    size = _config(origin).get("vocab_size")
    return size if isinstance(size, int) else None


def _config(origin: Any) -> dict[str, Any]:
    """A local config.json; empty if it cannot be read, which the build reports."""
    if not isinstance(origin, (str, Path)):
        return {}
    try:
        path = expanded(origin)
        config = parse_json((path / "config.json" if path.is_dir() else path).read_text(encoding="utf-8"))
    except (OSError, ValueError, ProblemError):
        return {}
    return config if isinstance(config, dict) else {}
