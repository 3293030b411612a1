"""Whole numbers times the scale of a row: 8 or 4 bits a weight, for embeddings and heads above all.

An embedding that is also the head takes few bits well, but not two (bitnet.cpp reports for its 2B model a perplexity of
17.11 in fp16, 17.15 in 6 bits, 17.35 in 4 bits, and no usable text in ternary). The scale is that of the largest
magnitude, so nothing is clipped. Forward and backward pass are as in `ternary`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from torch import Tensor

from penstock.hooks.contracts import ParameterRole
from penstock.quant158.config import Warmup
from penstock.quant158.gradient import straight_through
from penstock.quant158.quantizer import GridSite, PackedQuantizer, Stored
from penstock.quant158.roles import STORED_ROLES, checked_integer_roles
from penstock.quant158.scales import snapped, too_large


class IntegerSite(GridSite):
    """Quantizes one weight to whole numbers from -largest to largest times the scale of its row; has no state."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, weight: Tensor) -> Tensor:
        level, scale = self.stored(weight)
        return straight_through(level * scale.float(), weight)

    def stored(self, weight: Tensor) -> Stored:
        scale = snapped(self._row_scale(weight))
        level = (weight.detach().float() / scale.float()).round_().clamp_(-self.largest, self.largest)
        return Stored(level, scale)

    def fault(self, weight: Tensor) -> str | None:
        return too_large(self._row_scale(weight))

    def _row_scale(self, weight: Tensor) -> Tensor:
        """fp32 [..., out, 1], not yet as fp16 holds it; rows without values have 0."""
        full = weight.detach().float().abs()
        return (full.amax(-1, keepdim=True) if full.shape[-1] else full.sum(-1, keepdim=True)) / self.largest


class _IntegerQuantizer(PackedQuantizer):
    """Quantizer with one scale for each row; leading dimensions are independent matrices."""

    name: ClassVar[str]
    largest: ClassVar[int]

    def __init__(
        self,
        roles: Iterable[ParameterRole | str] = STORED_ROLES,
        activations: Literal["int8"] | None = None,
        warmup: Warmup | None = None,
    ) -> None:
        super().__init__(self.name, checked_integer_roles(roles), activations=activations, warmup=warmup)

    def grid_site(self, shape: tuple[int, ...]) -> IntegerSite:
        return IntegerSite(self.largest)


class Int8Quantizer(_IntegerQuantizer):
    """Eight bits a weight: -127 to 127 times the scale of the row.

    >>> Int8Quantizer().packed_bytes((4096, 256))
    1056768
    """

    name, largest = "int8-rows", 127


class Int4Quantizer(_IntegerQuantizer):
    """Four bits a weight: -7 to 7 times the scale of the row.

    >>> Int4Quantizer().packed_bytes((4096, 256))
    532480
    """

    name, largest = "int4-rows", 7
