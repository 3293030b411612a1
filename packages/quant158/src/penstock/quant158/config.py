"""Schemas of the quantizers; imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from penstock.hooks.config import Schema
from penstock.hooks.contracts import ParameterRole
from penstock.quant158.roles import STORED_ROLES, checked_integer_roles, checked_roles


class TernaryConfig(Schema):
    """Settings of `ternary`."""

    roles: tuple[ParameterRole, ...] = (ParameterRole.MATRIX, ParameterRole.EXPERT)
    """Roles of the parameters to make ternary: `matrix`, `expert` or both. BitNet b1.58 quantizes every linear layer
    except the head, and keeps embedding, head and norms in full precision."""
    group: Literal["tensor", "row", 64, 128, 256] = "tensor"
    """What shares one scale of 2 bytes: each matrix (`tensor`, as in BitNet b1.58), each output row (`row`), or so many
    neighbouring weights of a row (128 costs an eighth of a bit per weight)."""

    @field_validator("roles")
    @classmethod
    def _allowed(cls, roles: tuple[ParameterRole, ...]) -> tuple[ParameterRole, ...]:
        checked_roles(roles)
        return roles


class IntegerConfig(Schema):
    """Settings of `int8` and `int4`."""

    roles: tuple[ParameterRole, ...] = STORED_ROLES
    """Roles of the parameters to store so: `embedding`, `head`, `matrix` and `expert`. Beside ternary matrices, name
    the quantizer for embedding and head alone: `quantizer: {weights: ternary, embedding: int8, head: int8}`."""

    @field_validator("roles")
    @classmethod
    def _allowed(cls, roles: tuple[ParameterRole, ...]) -> tuple[ParameterRole, ...]:
        checked_integer_roles(roles)
        return roles
