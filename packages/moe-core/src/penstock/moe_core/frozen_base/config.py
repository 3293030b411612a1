"""Settings of the architecture `frozen-base`: which model is frozen, and where experts are added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from penstock.hooks.architecture import LARGEST_SIZE, ArchitectureSettings, architecture_settings, router_misfits
from penstock.hooks.contracts import ParameterRole, Prediction
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice
from penstock.hooks.schema import OfKind
from penstock.moe_core.frozen_base.mergeable import merged_config
from penstock.moe_core.glm.layouts import obstacles, rules_of
from penstock.moe_core.hub.export import rounded_inputs

# Settings that belong to the outer model, not to the base.
BELONGS_OUTSIDE = ("balance", "sharing", "quantizer", "overrides")


class FrozenBaseConfig(ArchitectureSettings):
    """A frozen model with trainable routed experts."""

    base: Annotated[Choice, OfKind("architecture")]
    """The model to freeze: `{use: glm-moe, pretrained: stories260K.bin}`, `{use: hf, pretrained: NAME}`, or either with
    a folder exported from a run."""
    layers: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Layers of the base that get experts, counted from 0."""
    place: Literal["beside", "in_place"] = "beside"
    """Where experts go: `beside` adds them to the layer's MLP, starting with a zero contribution; `in_place` replaces
    the MLP by experts that start as copies of it (upcycling)."""
    experts: int = Field(default=8, gt=0, le=LARGEST_SIZE)
    """Number of experts in each of these layers."""
    expert_size: int | None = Field(default=None, gt=0, le=LARGEST_SIZE)
    """Hidden width of an expert with `place: beside`; null uses four times the model's width, as in dense MLPs. With
    `in_place`, experts have the MLP's width."""
    vocab_size: int | None = Field(default=None, gt=0, le=LARGEST_SIZE)
    """Rows of the embedding; null uses the base's, or else the tokenizer's."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        """Experts next to two of the three dense MLPs of a model small enough for a test."""
        sizes = {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "first_k_dense_replace": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "intermediate_size": 48,
        }
        return {"base": {"use": "glm-moe", **sizes}, "layers": [1, 2], "experts": 4, "expert_size": 16}

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """Indices of the layers that get experts."""
        return tuple(sorted(self.layers))

    @property
    def max_positions(self) -> int | None:
        return architecture_settings(self.base).max_positions

    @property
    def absent_roles(self) -> frozenset[ParameterRole]:
        """The base is frozen, and is not quantized."""
        return frozenset({ParameterRole.MATRIX, ParameterRole.EMBEDDING, ParameterRole.HEAD})

    def export_obstacles(self) -> list[Problem]:
        base = self.base.settings
        size = self.expert_size or 4 * getattr(base, "hidden_size", 0)
        try:
            merged = merged_config(
                base,
                self.layers,
                experts=self.experts,
                expert_size=size if self.place == "beside" else getattr(base, "intermediate_size", 0),
                beside=self.place == "beside",
            )
        except ProblemError as error:
            return list(error.problems)
        return rounded_inputs(self.quantizer) + obstacles(merged, rules_of(self))

    @field_validator("base")
    @classmethod
    def _base_is_a_model_alone(cls, base: Choice) -> Choice:
        if (predicted := getattr(base.settings, "predicts", Prediction.NEXT_TOKEN)) != Prediction.NEXT_TOKEN:
            raise ValueError(f"'{base.entry.component.name}' predicts {predicted.text}: take a base of next tokens")
        written = [name for name in BELONGS_OUTSIDE if getattr(base.settings, name, None)]
        if written:
            raise ValueError(
                f"{' and '.join(written)} of the base would apply to frozen weights: write it next to `base`, "
                "where it applies to the experts"
            )
        return base

    @field_validator("layers")
    @classmethod
    def _layers_exist_once(cls, layers: list[int], info: ValidationInfo) -> list[int]:
        if twice := sorted({layer for layer in layers if layers.count(layer) > 1}):
            raise ValueError(f"names {', '.join(map(str, twice))} more than once")
        base = info.data.get("base")
        count = getattr(getattr(base, "settings", None), "num_hidden_layers", None)
        if isinstance(count, int) and (missing := [layer for layer in layers if layer >= count]):
            raise ValueError(absent_layers(missing, count))
        return layers

    @model_validator(mode="after")
    def _vocabulary_is_the_bases(self) -> FrozenBaseConfig:
        if self.vocab_size is None:
            object.__setattr__(self, "vocab_size", getattr(self.base.settings, "vocab_size", None))
        return self

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str | Problem]]:
        own = getattr(self.base.settings, "vocab_size", None)
        if own is not None and self.vocab_size not in (None, own):
            what = f"is {self.vocab_size}, but the base has {own}"
            yield ("vocab_size",), Problem("bad-value", what, fix="remove it")
        if self.place == "in_place" and self.expert_size is not None:
            what = "does not apply with `place: in_place`, where experts have the MLP's size; remove it"
            yield ("expert_size",), what
        yield from router_misfits(self, self.experts)


def absent_layers(missing: list[int], count: int) -> str:
    """The problem text for layers that a base of `count` layers does not have."""
    named = ", ".join(map(str, missing))
    return f"unknown layer {named}: the base has layers 0 to {count - 1}"
