"""Settings of the architecture `frozen-base`: which model stays as it is, and where experts learn beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from penstock.hooks.architecture import ArchitectureSettings, architecture_settings
from penstock.hooks.problems import Problem
from penstock.hooks.registry import Choice
from penstock.hooks.schema import PROBLEM, OfKind

# What is built into a model by whoever builds it; here that is the model around the base.
BELONGS_OUTSIDE = ("balance", "sharing", "quantizer", "overrides")


class FrozenBaseConfig(ArchitectureSettings):
    """A model that does not train, with routed experts that do."""

    base: Annotated[Choice, OfKind("architecture")]
    """The model that stays as it is: `{use: glm-moe, pretrained: stories260K.bin}`, `{use: hf, pretrained: NAME}`, or
    either with a folder that a run wrote."""
    layers: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Layers of the base that get experts, counted from 0."""
    place: Literal["beside", "in_place"] = "beside"
    """Beside the layer's MLP, to which the experts add, at first nothing; or in its place (upcycling), where each
    expert begins as a copy of it."""
    experts: int = Field(default=8, gt=0)
    """Experts of each of these layers."""
    expert_size: int | None = Field(default=None, gt=0)
    """Hidden width of an expert beside an MLP; null takes four times the model's width, as dense MLPs have it. In
    place, experts are as wide as what they are copies of."""
    vocab_size: int | None = Field(default=None, gt=0)
    """Rows of the embedding; null takes the base's, else the tokenizer's."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        """Experts beside two of the three dense layers of a model small enough for a test."""
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

    @field_validator("base")
    @classmethod
    def _base_is_a_model_alone(cls, base: Choice) -> Choice:
        written = [name for name in BELONGS_OUTSIDE if getattr(base.settings, name, None)]
        if written:
            raise ValueError(
                f"{' and '.join(written)} of the base would change or balance what does not train: write it beside "
                "`base`, where it is the experts'"
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
        own = getattr(self.base.settings, "vocab_size", None)
        if self.vocab_size is None:
            object.__setattr__(self, "vocab_size", own)
        if own is None or self.vocab_size == own:
            return self
        problem = Problem("bad-value", f"is {self.vocab_size}, and the base has {own}", fix="leave it out")
        error = PydanticCustomError(PROBLEM, "{problem}", {"problem": problem})
        details = InitErrorDetails(type=error, loc=("vocab_size",), input=self.vocab_size)
        raise ValidationError.from_exception_data(type(self).__name__, [details])

    @model_validator(mode="after")
    def _copies_have_their_size(self) -> FrozenBaseConfig:
        if self.place == "in_place" and self.expert_size is not None:
            raise ValueError("expert_size: experts in place of an MLP are copies of it and have its size; leave it out")
        k = getattr(getattr(self.router, "settings", None), "k", 1)
        if k > self.experts:
            raise ValueError(f"the router takes k = {k} experts a token, and there are experts = {self.experts}")
        return self


def absent_layers(missing: list[int], count: int) -> str:
    """What is wrong with layers that a base of `count` layers does not have."""
    named = ", ".join(map(str, missing))
    return f"layers are counted from 0: the base has layers 0 to {count - 1}, and no layer {named}"
