"""Absmean ternary weights of BitNet b1.58 (Ma et al. 2024, arXiv:2402.17764, equations 1 to 3).

A weight becomes -1, 0 or 1 times the mean magnitude of its group. The forward pass sees exactly those values, the
backward pass the identity, so the full-precision weight keeps training. Everything is computed in fp32 regardless of
the dtype of the weight: a bf16 mean is only accurate to 0.2 %, and the thresholds at half of it decide every weight.

Shapes: ... leading dimensions (E experts), out and in the two sides of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole
from penstock.quant158.packing import pack
from penstock.quant158.roles import checked_roles
from penstock.quant158.scales import check_packable, check_scale, grouped, mean_magnitude, snapped, ungrouped
from penstock.quant158.stored import GROUPS, Arrays, Group, packed_bytes, ternary_format, unpacked


@dataclass(frozen=True, slots=True)
class Ternary:
    """A quantized weight: `trit` int8 [..., out, in], `scale` fp16 [..., 1, 1], [..., out, 1] or [..., out, groups].

    Store this. Quantizing `value()` again keeps the trits but shrinks the scale to its mean magnitude, that is, by the
    share of zeros.
    """

    trit: Tensor
    scale: Tensor
    group: Group

    def value(self) -> Tensor:
        """fp32 [..., out, in]: trit * scale."""
        return ungrouped(grouped(self.trit, self.group) * self.scale.float().unsqueeze(-1), self.trit.shape[-1])


def ternarize(weight: Tensor, group: Group = "tensor") -> Ternary:
    """scale = fp16(max(mean |weight|, 2^-14)), trit = weight / scale rounded half to even and clipped to -1, 0, 1.

    `weight` is [..., out, in] in any floating dtype; `group` is what shares a scale: a matrix, a row, or so many
    neighbours in a row, the last of which may be fewer. A NaN or an infinity makes its whole group NaN in `value()`, so
    divergence stays visible. The scale of a matrix without values is the floor.
    """
    groups, scale = _groups_and_scale(weight, group)
    trit = ungrouped(_trits(groups, scale), weight.shape[-1]).to(torch.int8)
    return Ternary(trit, scale.squeeze(-1).half(), group)


def _groups_and_scale(weight: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """The weight as fp32 groups, and their scales in fp32."""
    if weight.ndim < 2:
        raise ValueError(f"ternarize: expected a matrix [..., out, in], got shape {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise ValueError(f"ternarize: expected floating-point weights, got {weight.dtype}")
    groups = grouped(weight.detach().float(), group)
    return groups, snapped(mean_magnitude(groups, group, weight.shape[-1])).float()


def _trits(groups: Tensor, scale: Tensor) -> Tensor:
    return (groups / scale).round_().clamp_(-1, 1)


def straight_through(value: Tensor, weight: Tensor) -> Tensor:
    """`value` forward, in the dtype of the weight; identity backward.

    `weight - weight.detach()` is exactly zero and carries the gradient, so the value is exactly on the grid, which
    `weight + (value - weight).detach()` would round off. (A custom `autograd.Function` is equivalent, but
    `torch.compile` of torch 2.11 gives it a gradient of zeros.) The sum also turns -0 into 0, as a code has no sign.
    """
    return value.to(weight.dtype) + (weight - weight.detach())


def _fake_quantized(weight: Tensor, group: Group) -> Tensor:
    groups, scale = _groups_and_scale(weight, group)
    return straight_through(ungrouped(_trits(groups, scale).mul_(scale), weight.shape[-1]), weight)


class TernarySite(nn.Module):
    """Quantizes one weight to ternary values; has no state."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group: Group = group

    def forward(self, weight: Tensor) -> Tensor:
        return _fake_quantized(weight, self.group)


class TernaryQuantizer:
    """Quantizer with three levels for each matrix (`group="tensor"`), output row (`"row"`) or 64, 128 or 256 neighbours
    in a row.

    Leading dimensions are independent: each of the stacked experts [E, out, in] has its own scales. Raises `ValueError`
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
        if group not in GROUPS:
            raise ValueError(f"ternary: unknown group {group!r}; use {', '.join(map(str, GROUPS))}")
        self.format = ternary_format(group)
        self.roles = checked_roles(roles)
        self.group: Group = group

    def fake_quantize(self, weight: Tensor) -> Tensor:
        """[..., out, in] to the same shape and dtype, on the ternary grid; the gradient passes unchanged."""
        return _fake_quantized(weight, self.group)

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> TernarySite:
        return TernarySite(self.group)

    def pack(self, weight: Tensor, site: nn.Module | None = None, *, name: str = "weight") -> dict[str, NDArray[Any]]:
        """`codes` and `scale`; raises `ProblemError` for a weight that has none."""
        check_packable(weight, name)
        groups = grouped(weight.detach().float(), self.group)
        check_scale(mean_magnitude(groups, self.group, weight.shape[-1]), name)
        stored = ternarize(weight, self.group)
        return {"codes": pack(stored.trit).cpu().numpy(), "scale": stored.scale.cpu().numpy()}

    def unpack(self, arrays: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
        """The weight used in the forward pass, bit for bit, as fp32; a pass in half precision rounds it."""
        return unpacked(self.format, arrays, shape)

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of the packed trits, five per byte, and of the fp16 scales.

        >>> TernaryQuantizer().packed_bytes((2, 100, 256))
        10244
        """
        return packed_bytes(self.format, shape)
