"""Hyper-parameters of the GLM-4.x architecture, under the names of its `config.json`, and the presets.

Sizes of `glm-4.6` and `glm-4.5-air` are those of the published checkpoints (zai-org/GLM-4.6, zai-org/GLM-4.5-Air).
`glm-15b-a3b` is the same architecture at 15B total and 3B active parameters. `quickstart` is what two CPU cores can
train in two minutes. A checkpoint brings its own sizes: see `GlmMoeConfig.pretrained`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from penstock.hooks.architecture import LARGEST_DEPTH, LARGEST_SIZE, router_misfits
from penstock.hooks.contracts import ParameterRole
from penstock.hooks.inputs import InputPath
from penstock.hooks.problems import Problem
from penstock.moe_core.glm import hub_config, layouts
from penstock.moe_core.hub.export import rounded_inputs
from penstock.moe_core.hub.settings import PretrainedSettings
from penstock.moe_core.plan.config import planned_fields
from penstock.moe_core.plan.request import PlanRequest

GLM_SPECIAL = {"vocab_size": 151_552, "rope_theta": 1_000_000.0, "initializer_range": 0.02}

PRESETS: dict[str, dict[str, Any]] = {
    "glm-4.6": {
        **GLM_SPECIAL,
        "hidden_size": 5120,
        "num_hidden_layers": 92,
        "first_k_dense_replace": 3,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "use_qk_norm": True,
        "intermediate_size": 12_288,
        "moe_intermediate_size": 1536,
        "n_routed_experts": 160,
        "max_position_embeddings": 202_752,
        "router": {"use": "sigmoid-topk", "k": 8, "scale": 2.5},
    },
    "glm-4.5-air": {
        **GLM_SPECIAL,
        "hidden_size": 4096,
        "num_hidden_layers": 46,
        "first_k_dense_replace": 1,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "use_qk_norm": False,
        "intermediate_size": 10_944,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 128,
        "max_position_embeddings": 131_072,
        "router": {"use": "sigmoid-topk", "k": 8, "scale": 1.0},
    },
    "glm-15b-a3b": {
        **GLM_SPECIAL,
        "hidden_size": 2048,
        "num_hidden_layers": 28,
        "first_k_dense_replace": 1,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "use_qk_norm": True,
        "intermediate_size": 8192,
        "moe_intermediate_size": 1024,
        "n_routed_experts": 80,
        "max_position_embeddings": 131_072,
        "router": {"use": "sigmoid-topk", "k": 8, "scale": 2.5},
    },
    "quickstart": {
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "use_qk_norm": True,
        "intermediate_size": 384,
        "moe_intermediate_size": 128,
        "n_routed_experts": 8,
        "max_position_embeddings": 1024,
        "rope_theta": 10_000.0,
        "router": {"use": "sigmoid-topk", "k": 2},
    },
}


# Fields that may differ from the pretrained checkpoint: they do not change weight shapes, and long
# contexts are trained by raising rope_theta (GLM-4.5: 10,000 up to 4k positions, 1,000,000 from 32k on).
CHANGEABLE = frozenset({"router", "rope_theta", "max_position_embeddings", "initializer_range", "eos_token_id"})


class GlmMoeConfig(PretrainedSettings):
    """A GLM-4.x model. Missing sizes come from `preset` or `pretrained`, if given."""

    preset: str | None = None
    """Named set of sizes to start from: glm-4.6, glm-4.5-air, glm-15b-a3b or quickstart."""
    pretrained: InputPath | None = None
    """Hugging Face glm4_moe folder or llama2.c .bin file to take sizes, router and weights from."""
    changeable = CHANGEABLE

    mtp: Literal["drop", "keep"] = "drop"
    """What to do with a checkpoint's multi-token prediction layers: drop them, or keep them untrained and write them
    back on export."""
    hidden_size: int = Field(gt=0, le=LARGEST_SIZE)
    """Model width D."""
    num_hidden_layers: int = Field(gt=0, le=LARGEST_DEPTH)
    """Number of layers, including dense ones."""
    first_k_dense_replace: int = Field(default=1, ge=0, le=LARGEST_SIZE)
    """Number of initial layers with a dense MLP; 1 in GLM-4.5-Air, 3 in GLM-4.6."""
    num_attention_heads: int = Field(gt=0, le=LARGEST_SIZE)
    """Number of query heads."""
    num_key_value_heads: int = Field(gt=0, le=LARGEST_SIZE)
    """Number of key and value heads; groups of query heads share one."""
    head_dim: int = Field(gt=0, le=LARGEST_SIZE)
    """Width of a head; num_attention_heads * head_dim need not equal hidden_size."""
    attention_bias: bool = True
    """Bias on q, k and v (never on the output), as in GLM-4.x."""
    use_qk_norm: bool = True
    """RMSNorm on every query and key head before the rotary embedding."""
    partial_rotary_factor: float = Field(default=0.5, gt=0, le=1)
    """Fraction of each head that gets rotary embedding; GLM-4.x rotates the first half."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies."""
    max_position_embeddings: int = Field(default=131_072, gt=0, le=LARGEST_SIZE)
    """Longest supported sequence, written to the exported config; training sequences may not be longer."""
    intermediate_size: int = Field(gt=0, le=LARGEST_SIZE)
    """Hidden width of the dense MLP."""
    moe_intermediate_size: int = Field(default=0, ge=0, le=LARGEST_SIZE)
    """Hidden width H of one expert; not needed by a model with only dense layers."""
    n_routed_experts: int = Field(default=0, ge=0, le=LARGEST_SIZE)
    """Number of experts E per mixture-of-experts layer; not needed by a model with only dense layers."""
    n_shared_experts: int = Field(default=1, ge=0, le=LARGEST_SIZE)
    """Number of shared experts, which see every token; they are built as one MLP of their total width."""
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of every RMSNorm."""
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial weights."""
    sub_norm: bool = False
    """RMSNorm before the output projection of attention and before every down projection, as in BitNet b1.58 2B4T:
    ternary weights train more stably on inputs of one scale. No class of transformers has it."""
    experts_backend: Literal["grouped", "batched", "loop"] | None = None
    """Implementation of the expert matrix products; null picks the fastest one that dtype, device and sizes allow."""
    tie_word_embeddings: bool = False
    """Use the embedding matrix as the head too."""
    plan: PlanRequest | None = None
    """A budget of parameters, in place of sizes; it becomes the sizes of a shape that meets it."""

    @classmethod
    def presets(cls) -> Mapping[str, Mapping[str, Any]]:
        return PRESETS

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        """One dense layer and two of experts, small enough for a test."""
        return {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "intermediate_size": 48,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
        }

    @classmethod
    def of_checkpoint(cls, path: Path) -> dict[str, Any]:
        return pretrained_settings(path)

    @classmethod
    def planned(cls, fields: Mapping[str, Any], vocabulary: int | None) -> dict[str, Any]:
        from penstock.moe_core.glm.planning import PLANNER  # which counts the weights of this config

        return planned_fields(PLANNER, cls, fields, vocabulary)

    @classmethod
    def placeholder_sizes(cls) -> Mapping[str, Any]:
        return PRESETS["quickstart"]

    @classmethod
    def placeholder(cls) -> Mapping[str, Any]:
        return {**PRESETS["quickstart"], "router": None}

    @property
    def expert_layers(self) -> range:
        """Indices of the mixture-of-experts layers."""
        return range(self.first_k_dense_replace, self.num_hidden_layers)

    @property
    def absent_roles(self) -> frozenset[ParameterRole]:
        return frozenset() if self.expert_layers else frozenset({ParameterRole.EXPERT, ParameterRole.ROUTER})

    @property
    def max_positions(self) -> int:
        return self.max_position_embeddings

    def of_given_weights(self) -> Mapping[str, Any]:
        return {**super().of_given_weights(), "mtp": "drop"}

    def export_obstacles(self) -> list[Problem]:
        return rounded_inputs(self.quantizer) + layouts.obstacles(
            self, layouts.rules_of(self), prediction_layers=self.mtp == "keep"
        )

    @property
    def sub_norm_epsilon(self) -> float | None:
        """Epsilon of the norms before output and down projections; None: the model has no such norms."""
        return self.rms_norm_eps if self.sub_norm else None

    @property
    def rotary_dim(self) -> int:
        return int(self.head_dim * self.partial_rotary_factor)

    @model_validator(mode="before")
    @classmethod
    def _plain_python_passes_a_router_object(cls, data: Any, info: ValidationInfo) -> Any:
        """Without a registry a preset's router name cannot be resolved; `make_router` provides the object."""
        return data if info.context or not isinstance(data, dict) else {"router": None, **data}

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str | Problem]]:
        yield from super().misfits()
        if self.num_attention_heads % self.num_key_value_heads:
            heads = f"num_attention_heads ({self.num_attention_heads}) is not a multiple of"
            yield ("num_attention_heads",), f"{heads} num_key_value_heads ({self.num_key_value_heads})"
        if self.rotary_dim % 2 or not self.rotary_dim:
            rotated = f"head_dim ({self.head_dim}) x partial_rotary_factor ({self.partial_rotary_factor})"
            yield ("head_dim",), f"{rotated} must be a positive even number"
        if self.first_k_dense_replace > self.num_hidden_layers:
            dense = f"first_k_dense_replace ({self.first_k_dense_replace}) is greater than"
            yield ("first_k_dense_replace",), f"{dense} num_hidden_layers ({self.num_hidden_layers})"
        if self.expert_layers:
            yield from self._experts_missing()
        if self.expert_layers and self.n_routed_experts:
            yield from router_misfits(self, self.n_routed_experts)

    def _experts_missing(self) -> Iterator[tuple[tuple[str], str]]:
        layers = f"layers {self.first_k_dense_replace} to {self.num_hidden_layers - 1} have experts, which need it"
        dense = f"a model without experts has first_k_dense_replace = num_hidden_layers = {self.num_hidden_layers}"
        for name in ("n_routed_experts", "moe_intermediate_size"):
            if not getattr(self, name):
                yield (name,), f"{layers}; {dense}"

    def misfits_in(self, dtype: str, device: str) -> Iterator[tuple[str, str]]:
        if self.experts_backend != "grouped" or not self.expert_layers:
            return
        unit = 16 // {"fp32": 4, "bf16": 2}[dtype]
        for name in ("hidden_size", "moe_intermediate_size"):
            if getattr(self, name) % unit:
                what = f"is {getattr(self, name)}, but experts_backend = grouped needs a multiple of {unit} in {dtype}"
                yield name, what
        if device.startswith("cuda") and dtype != "bf16":
            yield "experts_backend", "grouped products need train.dtype = bf16 on a GPU"


def pretrained_settings(path: Path) -> dict[str, Any]:
    """The fields of `GlmMoeConfig` that a checkpoint fixes; raises `ProblemError` if it cannot be read or is not a
    supported checkpoint."""
    if path.is_dir():
        return hub_config.read_settings(path)
    from penstock.moe_core.glm import llama2c  # imports numpy, which commands that only check a config do not need

    return llama2c.read_settings(path)
