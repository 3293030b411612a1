"""Absmean ternary weights of BitNet b1.58 (Ma et al. 2024, arXiv:2402.17764, equations 1 to 3).

A weight becomes -1, 0 or 1 times the mean magnitude of its matrix. The forward pass sees exactly those values, the
backward pass the identity, so the full-precision weight keeps training. Everything is computed in fp32 regardless of
the dtype of the weight: a bf16 mean is only accurate to 0.2 %, and the thresholds at half of it decide every weight.

Shapes: ... leading dimensions (E experts), out and in the two sides of a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole
from penstock.hooks.problems import Problem, ProblemError
from penstock.quant158.packing import pack
from penstock.quant158.roles import checked_roles
from penstock.quant158.stored import FORMAT, Arrays, packed_bytes, unpacked

Group = Literal["tensor", "row"]

# The floor of the scale in the reference code of BitNet b1.58; it keeps a matrix of zeros from dividing by zero.
SMALLEST_SCALE = 1e-5


@dataclass(frozen=True, slots=True)
class Ternary:
    """A quantized weight: `trit` int8 [..., out, in], `scale` fp32 [..., 1, 1] or [..., out, 1].

    Store this. Quantizing `value()` again keeps the trits but shrinks the scale to its mean magnitude, that is, by the
    share of zeros.
    """

    trit: Tensor
    scale: Tensor

    def value(self) -> Tensor:
        """fp32 [..., out, in]: trit * scale."""
        return self.trit * self.scale


def ternarize(weight: Tensor, group: Group = "tensor") -> Ternary:
    """scale = max(mean |weight|, 1e-5), trit = weight / scale rounded half to even and clipped to -1, 0, 1.

    `weight` is [..., out, in] in any floating dtype. A NaN or an infinity makes its whole group NaN or infinite in
    `value()`, so divergence stays visible. The scale of a matrix without values is the floor.
    """
    if weight.ndim < 2:
        raise ValueError(f"ternarize: expected a matrix [..., out, in], got shape {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise ValueError(f"ternarize: expected floating-point weights, got {weight.dtype}")
    full = weight.detach().float()
    magnitude = full.abs().sum(-1, keepdim=True)
    count = full.shape[-1]
    if group == "tensor":
        # Rows first, then their sums: a sum over both dimensions at once depends in the last bit on the number of
        # threads and on how many matrices are stacked.
        magnitude = magnitude.sum(-2, keepdim=True)
        count *= full.shape[-2]
    scale = (magnitude / max(count, 1)).clamp_(min=SMALLEST_SCALE)
    return Ternary((full / scale).round_().clamp_(-1, 1).to(torch.int8), scale)


def _straight_through(weight: Tensor, group: Group) -> Tensor:
    """Ternary forward, identity backward.

    `weight - weight.detach()` is exactly zero and carries the gradient, so the value is exactly on the grid, which
    `weight + (ternary - weight).detach()` would round off. (A custom `autograd.Function` is equivalent, but
    `torch.compile` of torch 2.11 gives it a gradient of zeros.)
    """
    detached = weight.detach()
    return ternarize(detached, group).value().to(weight.dtype) + (weight - detached)


class TernarySite(nn.Module):
    """Quantizes one weight to ternary values; has no state."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group: Group = group

    def forward(self, weight: Tensor) -> Tensor:
        return _straight_through(weight, self.group)


class TernaryQuantizer:
    """Quantizer with three levels for each matrix (`group="tensor"`) or each of its output rows (`"row"`).

    Leading dimensions are independent: each of the stacked experts [E, out, in] has its own scale. Raises `ValueError`
    for a role that cannot be ternary.

    >>> TernaryQuantizer().fake_quantize(torch.tensor([[0.1, -1.0], [2.0, 0.9]]))
    tensor([[ 0., -1.],
            [ 1.,  1.]])
    """

    def __init__(
        self,
        roles: Iterable[ParameterRole | str] = (ParameterRole.MATRIX, ParameterRole.EXPERT),
        group: Group = "tensor",
    ) -> None:
        if group not in get_args(Group):
            raise ValueError(f"ternary: unknown group {group!r}; use 'tensor' or 'row'")
        self.format = FORMAT
        self.roles = checked_roles(roles)
        self.group: Group = group

    def fake_quantize(self, weight: Tensor) -> Tensor:
        """[..., out, in] to the same shape and dtype, on the ternary grid; the gradient passes unchanged."""
        return _straight_through(weight, self.group)

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> TernarySite:
        return TernarySite(self.group)

    def pack(self, weight: Tensor, site: nn.Module | None = None, *, name: str = "weight") -> dict[str, NDArray[Any]]:
        """`codes` and `scale`, the scale as the dtype of the weight holds it, because that is what the forward pass
        multiplies by; raises `ProblemError` for a weight that has no such codes."""
        _check_packable(weight, name)
        stored = ternarize(weight, self.group)
        scale = stored.scale.to(weight.dtype).float()
        if not bool(scale.isfinite().all()):
            largest = float(weight.detach().float().abs().max())
            what = f"'{name}' has values of up to {largest:.3g}, and the sum of a matrix exceeds the range of fp32"
            raise ProblemError(Problem("not-finite", what, "", "use a checkpoint from before the run diverged"))
        return {"codes": pack(stored.trit).cpu().numpy(), "scale": scale.cpu().numpy()}

    def unpack(self, arrays: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
        """The weight used in the forward pass, bit for bit, as fp32, which holds every bf16 and fp16 number."""
        return unpacked(arrays, shape)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of the packed trits (five per byte, rows padded) and of the fp32 scales. The scales are those of the
        forward pass bit for bit, so a packed weight is exactly the trained one.

        >>> TernaryQuantizer().packed_bytes((2, 100, 256))
        10408
        """
        if len(shape) < 2:
            raise ValueError(f"packed_bytes: expected a matrix [..., out, in], got shape {tuple(shape)}")
        return packed_bytes(shape, math.prod(shape[:-1] if self.group == "row" else shape[:-2]))


def _check_packable(weight: Tensor, name: str) -> None:
    """Raises `ProblemError` for a weight that ternary codes cannot represent."""
    if weight.ndim < 2 or not weight.is_floating_point():
        what = f"'{name}' is {weight.dtype} {tuple(weight.shape)}, not a floating-point matrix"
        raise ProblemError(Problem("bad-weights", what, "", "pack matrices of weights only"))
    if not bool(weight.isfinite().all()):
        what = f"'{name}' has NaN or infinite values, which ternary codes cannot represent"
        raise ProblemError(Problem("not-finite", what, "", "use a checkpoint from before the run diverged"))
