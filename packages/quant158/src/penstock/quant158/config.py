"""Schema of the ternary quantizer; imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from penstock.hooks.config import Schema
from penstock.hooks.contracts import ParameterRole
from penstock.quant158.roles import checked_roles


class TernaryConfig(Schema):
    """Settings of `ternary`."""

    roles: tuple[ParameterRole, ...] = (ParameterRole.MATRIX, ParameterRole.EXPERT)
    """Roles of the parameters to make ternary: `matrix`, `expert` or both. BitNet b1.58 quantizes every linear layer
    except the head, and keeps embedding, head and norms in full precision."""
    group: Literal["tensor", "row"] = "tensor"
    """What shares one scale: each matrix (`tensor`, as in BitNet b1.58) or each output row (`row`, as in ParetoQ),
    which costs 4 bytes per row."""

    @field_validator("roles")
    @classmethod
    def _allowed(cls, roles: tuple[ParameterRole, ...]) -> tuple[ParameterRole, ...]:
        checked_roles(roles)
        return roles
