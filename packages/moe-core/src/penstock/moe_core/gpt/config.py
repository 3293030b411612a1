"""Hyper-parameters of GPT-2's architecture and the presets, whose sizes are those of the published checkpoints
(openai-community/gpt2, gpt2-medium, gpt2-large, gpt2-xl). `quickstart` is what two CPU cores can train in minutes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from penstock.hooks.architecture import LARGEST_DEPTH, LARGEST_SIZE
from penstock.hooks.contracts import ParameterRole
from penstock.hooks.inputs import InputPath
from penstock.hooks.problems import Problem
from penstock.moe_core.gpt import hub_config
from penstock.moe_core.hub.export import SUB_NORM, rounded_inputs
from penstock.moe_core.hub.settings import PretrainedSettings
from penstock.moe_core.plan.config import planned_fields
from penstock.moe_core.plan.request import PlanRequest

VOCABULARY = 50_257

PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": VOCABULARY, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "gpt2-medium": {"vocab_size": VOCABULARY, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "gpt2-large": {"vocab_size": VOCABULARY, "hidden_size": 1280, "num_hidden_layers": 36, "num_attention_heads": 20},
    "gpt2-xl": {"vocab_size": VOCABULARY, "hidden_size": 1600, "num_hidden_layers": 48, "num_attention_heads": 25},
    "quickstart": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
}

Activation = Literal["gelu-tanh", "gelu"]


class GptConfig(PretrainedSettings):
    """A dense GPT-2: learned positions, LayerNorm, biases. Sizes that neither `preset` nor `pretrained` gives are those
    of the published model of 124M parameters."""

    preset: str | None = None
    """Named set of sizes to start from: gpt2, gpt2-medium, gpt2-large, gpt2-xl or quickstart."""
    pretrained: InputPath | None = None
    """Hugging Face gpt2 folder to take sizes and weights from."""
    hidden_size: int = Field(default=768, gt=0, le=LARGEST_SIZE)
    """Model width D."""
    num_hidden_layers: int = Field(default=12, gt=0, le=LARGEST_DEPTH)
    """Number of layers."""
    num_attention_heads: int = Field(default=12, gt=0, le=LARGEST_SIZE)
    """Number of heads, each of hidden_size / num_attention_heads."""
    intermediate_size: int | None = Field(default=None, gt=0, le=LARGEST_SIZE)
    """Hidden width of the MLP; null: four times hidden_size."""
    max_position_embeddings: int = Field(default=1024, gt=0, le=LARGEST_SIZE)
    """Rows of the position embedding: the longest sequence that the model reads."""
    activation: Activation = "gelu-tanh"
    """Activation of the MLP: GELU by its tanh approximation, as in GPT-2, or exact."""
    layer_norm_epsilon: float = Field(default=1e-5, gt=0)
    """Epsilon of every LayerNorm."""
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial weights."""
    sub_norm: bool = False
    """RMSNorm before the output projection of attention and before every down projection, as in BitNet b1.58 2B4T:
    ternary weights train more stably on inputs of one scale. No class of transformers has it."""
    tie_word_embeddings: bool = True
    """Use the embedding matrix as the head too."""
    plan: PlanRequest | None = None
    """A budget of parameters, in place of sizes; it becomes the sizes of a shape that meets it."""

    changeable = frozenset({"initializer_range", "eos_token_id"})

    @classmethod
    def presets(cls) -> Mapping[str, Mapping[str, Any]]:
        return PRESETS

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        """Small enough for a test; with a head of its own, so that every parameter has one name."""
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        return {**sizes, "max_position_embeddings": 64, "tie_word_embeddings": False}

    @classmethod
    def of_checkpoint(cls, path: Path) -> dict[str, Any]:
        return hub_config.read_settings(path)

    @classmethod
    def planned(cls, fields: Mapping[str, Any], vocabulary: int | None) -> dict[str, Any]:
        from penstock.moe_core.gpt.planning import PLANNER  # which counts the weights of this config

        return planned_fields(PLANNER, cls, fields, vocabulary)

    @classmethod
    def placeholder_sizes(cls) -> Mapping[str, Any]:
        return PRESETS["quickstart"]

    @classmethod
    def placeholder(cls) -> Mapping[str, Any]:
        return PRESETS["quickstart"]

    @property
    def absent_roles(self) -> frozenset[ParameterRole]:
        return frozenset({ParameterRole.EXPERT, ParameterRole.ROUTER})

    @property
    def max_positions(self) -> int:
        return self.max_position_embeddings

    @property
    def mlp_size(self) -> int:
        """Hidden width of the MLP."""
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def sub_norm_epsilon(self) -> float | None:
        """Epsilon of the norms before output and down projections; None: the model has no such norms."""
        return self.layer_norm_epsilon if self.sub_norm else None

    def export_obstacles(self) -> list[Problem]:
        return rounded_inputs(self.quantizer) + ([SUB_NORM] if self.sub_norm else [])

    @field_validator("router", "balance", "overrides", mode="before")
    @classmethod
    def _has_no_experts(cls, value: Any) -> Any:
        if value:
            raise ValueError("a gpt is dense, so it has no routers: remove it, or use glm-moe")
        return value

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str | Problem]]:
        yield from super().misfits()
        if self.hidden_size % self.num_attention_heads:
            width = f"hidden_size ({self.hidden_size}) is not a multiple of"
            yield ("hidden_size",), f"{width} num_attention_heads ({self.num_attention_heads})"
