"""Floating-point numbers of 16 bits, a weight each: what models are commonly published in.

A ratio of sizes against fp32 says little without them. `bf16` has the range of fp32 and 8 bits of precision, `fp16` 11
bits up to 65,504. Rounding is to nearest, ties to even; forward and backward pass are as in `ternary`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import Problem, ProblemError
from penstock.quant158.gradient import straight_through
from penstock.quant158.quantizer import check_packable
from penstock.quant158.roles import STORED_ROLES, checked_half_roles
from penstock.quant158.stored import Arrays
from penstock.quant158.values import BF16, FP16, LARGEST, array_fault, value_bytes, widened

_TORCH = {FP16: torch.float16, BF16: torch.bfloat16}


class HalfSite(nn.Module):
    """Rounds one weight to 16 bits; has no state."""

    def __init__(self, format: str) -> None:
        super().__init__()
        self.format = format

    def forward(self, weight: Tensor) -> Tensor:
        return straight_through(self.stored(weight).float(), weight)

    def stored(self, weight: Tensor) -> Tensor:
        """The weight in the dtype of the format. A number beyond its range becomes the largest, and -0 becomes 0."""
        largest = LARGEST[self.format]
        return weight.detach().float().clamp(-largest, largest).to(_TORCH[self.format]) + 0

    def fault(self, weight: Tensor) -> str | None:
        """Why the format cannot hold the weight, which is finite; None if it can."""
        largest = float(weight.detach().float().abs().max()) if weight.numel() else 0.0
        if largest <= LARGEST[self.format]:
            return None
        return f"a value of magnitude {largest:.6g}, and {self.format} ends at {LARGEST[self.format]:.6g}"


class _HalfQuantizer:
    """Stores a weight as numbers of 16 bits, without scales."""

    format: ClassVar[str]

    def __init__(self, roles: Iterable[ParameterRole | str] = STORED_ROLES) -> None:
        self.roles = checked_half_roles(roles)

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> HalfSite:
        return HalfSite(self.format)

    @torch.no_grad()
    def pack(self, weight: Tensor, site: nn.Module | None = None, *, name: str = "weight") -> dict[str, NDArray[Any]]:
        """`values`; raises `ProblemError` for a weight that is not finite, or beyond the range of the format."""
        check_packable(weight, name)
        rounding = HalfSite(self.format)
        if fault := rounding.fault(weight):
            fix = "store it as bf16, or use a checkpoint from before the run diverged"
            raise ProblemError(Problem("not-finite", f"'{name}' has {fault}", "", fix))
        values = rounding.stored(weight).contiguous().cpu()
        numbers = values.numpy() if self.format == FP16 else values.view(torch.int16).numpy().view("<u2")
        return {"values": numbers}

    def unpack(self, arrays: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
        """The weight used in the forward pass, bit for bit, as fp32."""
        if fault := array_fault(self.format, arrays, shape):
            raise ProblemError(Problem("bad-weights", fault, "", "pack the weight again"))
        return widened(self.format, arrays["values"])

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        return value_bytes(self.format, shape)


class Fp16Quantizer(_HalfQuantizer):
    """IEEE half precision: 11 bits of precision, from 2^-24 to 65,504.

    >>> Fp16Quantizer().packed_bytes((4096, 256))
    2097152
    """

    format = FP16


class Bf16Quantizer(_HalfQuantizer):
    """The upper half of fp32: 8 bits of precision, and its range.

    >>> Bf16Quantizer().site((2,), ParameterRole.HEAD)(torch.tensor([1 / 3, 1e30]))
    tensor([3.3398e-01, 1.0006e+30])
    """

    format = BF16
