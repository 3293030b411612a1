"""Schemas of the quantizers; imports no torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator

from penstock.hooks.config import Schema
from penstock.hooks.contracts import ParameterRole
from penstock.quant158.roles import STORED_ROLES, checked_half_roles, checked_integer_roles, checked_roles

# How steep the sigmoid is: it begins at 0.7 % of its height, which is cut off so that it runs from 0 to 1.
STEEPNESS = 10.0


class Warmup(Schema):
    """How training goes from full precision to the format."""

    tokens: int = Field(gt=0)
    """Trained tokens after which weights are entirely on the grid. Only then they can be packed."""
    shape: Literal["linear", "sigmoid", "cosine"] = "linear"
    """Course of the share of the format in the weight, from 0 to 1."""

    def share(self, tokens: int) -> float:
        """Share of the format after so many trained tokens.

        >>> Warmup(tokens=100).share(25), Warmup(tokens=100).share(101)
        (0.25, 1.0)
        """
        part = tokens / self.tokens
        if part >= 1:
            return 1.0
        match self.shape:
            case "linear":
                return part
            case "cosine":
                return (1 - math.cos(math.pi * part)) / 2
            case "sigmoid":  # a logistic function is a hyperbolic tangent; this one goes from 0 to 1
                return (1 + math.tanh(STEEPNESS * (part - 0.5) / 2) / math.tanh(STEEPNESS / 4)) / 2


class QuantizerConfig(Schema):
    """What all quantizers have."""

    activations: Literal["int8"] | None = None
    """`int8` rounds what the weights multiply to 8 bits a token, as BitNet b1.58 does, so that decoding with integer
    products computes what training did; null leaves it as it is."""
    warmup: Warmup | None = None
    """Mixes full precision into the weights at first: `{tokens: 1000000, shape: sigmoid}`. For a model that starts from
    trained weights; null trains on the grid from the first step."""


class LearnedTernaryConfig(QuantizerConfig):
    """Settings of `ternary-learned`."""

    roles: tuple[ParameterRole, ...] = (ParameterRole.MATRIX, ParameterRole.EXPERT)
    """Roles of the parameters to make ternary: `matrix`, `expert` or both. BitNet b1.58 quantizes every linear layer
    except the head, and keeps embedding, head and norms in full precision."""

    @field_validator("roles")
    @classmethod
    def _allowed(cls, roles: tuple[ParameterRole, ...]) -> tuple[ParameterRole, ...]:
        checked_roles(roles)
        return roles


class TernaryConfig(LearnedTernaryConfig):
    """Settings of `ternary`."""

    group: Literal["tensor", "row", 64, 128, 256] = "tensor"
    """What shares one scale of 2 bytes: each matrix (`tensor`, as in BitNet b1.58), each output row (`row`), or so many
    neighbouring weights of a row (128 costs an eighth of a bit per weight)."""


class IntegerConfig(QuantizerConfig):
    """Settings of `int8` and `int4`."""

    roles: tuple[ParameterRole, ...] = STORED_ROLES
    """Roles of the parameters to store so: `embedding`, `head`, `matrix` and `expert`. Beside ternary matrices, name
    the quantizer for embedding and head alone: `quantizer: {weights: ternary, embedding: int8, head: int8}`."""

    @field_validator("roles")
    @classmethod
    def _allowed(cls, roles: tuple[ParameterRole, ...]) -> tuple[ParameterRole, ...]:
        checked_integer_roles(roles)
        return roles


class HalfConfig(Schema):
    """Settings of `fp16` and `bf16`."""

    roles: tuple[ParameterRole, ...] = STORED_ROLES
    """Roles of the parameters to store in 16 bits: `embedding`, `head`, `matrix` and `expert`. Router, norms and biases
    stay fp32."""

    @field_validator("roles")
    @classmethod
    def _allowed(cls, roles: tuple[ParameterRole, ...]) -> tuple[ParameterRole, ...]:
        checked_half_roles(roles)
        return roles


class ArtifactConfig(Schema):
    """Settings of the exporter `penstock`."""

    compress: Literal["lzma"] | None = None
    """`lzma` stores codes, scales and numbers entropy-coded where that is smaller. Packed trits hardly shrink. Such a
    file has version 2, which programs that only read version 1 refuse, and is decoded as it is loaded."""
