"""What an artifact says of its model so that the decoder can run it: sizes and switches, checked; imports no torch.

The names of tensors are those of the model's parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from penstock.hooks.problems import Problem, ProblemError

Size = Annotated[int, Field(gt=0, lt=2**31)]
Width = Annotated[int, Field(ge=0, lt=2**31)]
Bits = Literal[8, 16]


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Dense(_Described):
    """A layer with one MLP."""

    mlp: Literal["dense"]
    hidden: Size


class Mixture(_Described):
    """A layer of experts: `k` of `experts` with `hidden` rows each, and a shared one of `shared` rows, if any."""

    mlp: Literal["experts"]
    hidden: Size
    experts: Size
    k: Size
    score: Literal["sigmoid", "softmax"]
    normalize: bool
    scale: float
    temperature: float = Field(default=1.0, gt=0)
    groups: Literal[1] = 1
    shared: Width

    @model_validator(mode="after")
    def _enough_experts(self) -> Mixture:
        if self.k > self.experts:
            raise ValueError(f"k is {self.k} of {self.experts} experts")
        return self


class Activations(_Described):
    """Bits of what the matrices of each role read."""

    matrix: Bits
    expert: Bits
    head: Bits


class Description(_Described):
    """A transformer that the decoder runs. `rotary_width` entries of each head are rotated; `bias` is that of q, k and
    v; `sub_norm` normalises what output and down projections read."""

    kind: Literal["transformer"]
    width: Size
    heads: Size
    key_value_heads: Size
    head_width: Size
    rotary_width: Size
    rope_theta: float = Field(gt=0)
    epsilon: float = Field(gt=0)
    qk_norm: bool
    bias: bool
    sub_norm: bool
    vocabulary: Size
    positions: Size
    tied: bool
    activations: Activations
    layers: tuple[Annotated[Dense | Mixture, Field(discriminator="mlp")], ...] = Field(strict=False)

    @model_validator(mode="after")
    def _fit(self) -> Description:
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads ({self.heads}) is not a multiple of key_value_heads ({self.key_value_heads})")
        if self.rotary_width % 2 or self.rotary_width > self.head_width:
            raise ValueError(f"rotary_width ({self.rotary_width}) is odd or above head_width ({self.head_width})")
        return self

    @classmethod
    def read(cls, given: Mapping[str, Any], where: str) -> Description:
        """Raises `ProblemError` for a description that contradicts itself or is of another version."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "decoder"
            what = f"its description for the decoder is wrong: {field}: {first['msg']}"
            raise ProblemError(Problem("bad-artifact", what, where, "export the run again")) from error

    def matrices(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each ternary tensor in the order of native/decoder_api.h; experts are stacked."""
        heads, pairs = self.heads * self.head_width, self.key_value_heads * self.head_width
        for index, layer in enumerate(self.layers):
            attention = f"layers.{index}.self_attn"
            yield f"{attention}.q_proj.weight", (heads, self.width)
            yield f"{attention}.k_proj.weight", (pairs, self.width)
            yield f"{attention}.v_proj.weight", (pairs, self.width)
            yield f"{attention}.o_proj.weight", (self.width, heads)
            if name := single_mlp(index, layer):
                hidden = hidden_of(layer)
                yield f"{name}.gate_proj.weight", (hidden, self.width)
                yield f"{name}.up_proj.weight", (hidden, self.width)
                yield f"{name}.down_proj.weight", (self.width, hidden)
            if isinstance(layer, Mixture):
                experts = f"layers.{index}.mlp.experts"
                yield f"{experts}.gate_up_proj:gate", (layer.experts, layer.hidden, self.width)
                yield f"{experts}.gate_up_proj:up", (layer.experts, layer.hidden, self.width)
                yield f"{experts}.down_proj", (layer.experts, self.width, layer.hidden)

    def vectors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each fp32 tensor in the order of native/decoder_api.h."""
        heads, pairs = self.heads * self.head_width, self.key_value_heads * self.head_width
        for index, layer in enumerate(self.layers):
            attention = f"layers.{index}.self_attn"
            yield f"layers.{index}.input_layernorm.weight", (self.width,)
            if self.bias:
                yield f"{attention}.q_proj.bias", (heads,)
                yield f"{attention}.k_proj.bias", (pairs,)
                yield f"{attention}.v_proj.bias", (pairs,)
            if self.qk_norm:
                yield f"{attention}.q_norm.weight", (self.head_width,)
                yield f"{attention}.k_norm.weight", (self.head_width,)
            if self.sub_norm:
                yield f"{attention}.sub_norm.weight", (heads,)
            yield f"layers.{index}.post_attention_layernorm.weight", (self.width,)
            if self.sub_norm and (name := single_mlp(index, layer)):
                yield f"{name}.sub_norm.weight", (hidden_of(layer),)
            if isinstance(layer, Mixture):
                yield f"layers.{index}.mlp.gate.weight", (layer.experts, self.width)
                yield f"layers.{index}.mlp.gate.e_score_correction_bias", (layer.experts,)
                if self.sub_norm:
                    yield f"layers.{index}.mlp.experts.sub_norm", (layer.experts, layer.hidden)
        yield "norm.weight", (self.width,)

    def rows(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of the embedding, and of the head unless it is the embedding."""
        yield "embed_tokens.weight", (self.vocabulary, self.width)
        if not self.tied:
            yield "lm_head.weight", (self.vocabulary, self.width)


def single_mlp(index: int, layer: Dense | Mixture) -> str | None:
    """The dense MLP of a layer, or its shared expert."""
    if isinstance(layer, Dense):
        return f"layers.{index}.mlp"
    return f"layers.{index}.mlp.shared_experts" if layer.shared else None


def hidden_of(layer: Dense | Mixture) -> int:
    """Rows of that MLP; 0 if the layer has no such MLP."""
    return layer.hidden if isinstance(layer, Dense) else layer.shared
