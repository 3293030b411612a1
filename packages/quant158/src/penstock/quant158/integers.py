"""Whole numbers times the scale of a row: 8 or 4 bits a weight, for embeddings and heads above all.

An embedding that is also the head takes few bits well, but not two (bitnet.cpp reports for its 2B model a perplexity of
17.11 in fp16, 17.15 in 6 bits, 17.35 in 4 bits, and no usable text in ternary). The scale is that of the largest
magnitude, so nothing is clipped. Forward and backward pass are as in `ternary`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole
from penstock.quant158.packing import pack_nibbles
from penstock.quant158.roles import STORED_ROLES, checked_integer_roles
from penstock.quant158.scales import check_packable, check_scale, snapped
from penstock.quant158.stored import Arrays, packed_bytes, unpacked
from penstock.quant158.ternary import straight_through


class IntegerSite(nn.Module):
    """Quantizes one weight to whole numbers from -largest to largest times the scale of its row; has no state."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, weight: Tensor) -> Tensor:
        level, scale = _rounded(weight, self.largest)
        return straight_through(level * scale, weight)


def _row_scale(weight: Tensor, largest: int) -> Tensor:
    """fp32 [..., out, 1], not yet as fp16 holds it; rows without values have 0."""
    full = weight.detach().float().abs()
    return (full.amax(-1, keepdim=True) if full.shape[-1] else full.sum(-1, keepdim=True)) / largest


def _rounded(weight: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Whole numbers [..., out, in] and scales [..., out, 1], both fp32."""
    scale = snapped(_row_scale(weight, largest)).float()
    return (weight.detach().float() / scale).round_().clamp_(-largest, largest), scale


class _IntegerQuantizer:
    """Quantizer with one scale for each row; leading dimensions are independent matrices."""

    format: ClassVar[str]
    largest: ClassVar[int]

    def __init__(self, roles: Iterable[ParameterRole | str] = STORED_ROLES) -> None:
        self.roles = checked_integer_roles(roles)

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> IntegerSite:
        return IntegerSite(self.largest)

    def pack(self, weight: Tensor, site: nn.Module | None = None, *, name: str = "weight") -> dict[str, NDArray[Any]]:
        """`codes` and `scale`; raises `ProblemError` for a weight that has none."""
        check_packable(weight, name)
        check_scale(_row_scale(weight, self.largest), name)
        level, scale = _rounded(weight, self.largest)
        codes = level.to(torch.int8).flatten() if self.format == "int8-rows" else pack_nibbles(level)
        return {"codes": codes.cpu().numpy(), "scale": scale.half().cpu().numpy()}

    def unpack(self, arrays: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
        """The weight used in the forward pass, bit for bit, as fp32; a pass in half precision rounds it."""
        return unpacked(self.format, arrays, shape)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of the codes and of the fp16 scales."""
        return packed_bytes(self.format, shape)


class Int8Quantizer(_IntegerQuantizer):
    """Eight bits a weight: -127 to 127 times the scale of the row.

    >>> Int8Quantizer().packed_bytes((4096, 256))
    1056768
    """

    format, largest = "int8-rows", 127


class Int4Quantizer(_IntegerQuantizer):
    """Four bits a weight: -7 to 7 times the scale of the row.

    >>> Int4Quantizer().packed_bytes((4096, 256))
    532480
    """

    format, largest = "int4-rows", 7
