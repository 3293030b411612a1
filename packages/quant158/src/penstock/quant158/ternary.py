"""Absmean ternary weights of BitNet b1.58 (Ma et al. 2024, arXiv:2402.17764, equations 1 to 3).

A weight becomes -1, 0 or 1 times the mean magnitude of its group. The forward pass sees exactly those values, the
backward pass the identity, so the full-precision weight keeps training. Everything is computed in fp32 regardless of
the dtype of the weight: a bf16 mean is only accurate to 0.2 %, and the thresholds at half of it decide every weight.

Shapes: ... leading dimensions (E experts), out and in the two sides of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from penstock.hooks.contracts import ParameterRole
from penstock.quant158.config import Warmup
from penstock.quant158.gradient import straight_through
from penstock.quant158.quantizer import GridSite, PackedQuantizer, Stored
from penstock.quant158.roles import checked_roles
from penstock.quant158.scales import grouped, mean_magnitude, snapped, too_large, ungrouped
from penstock.quant158.stored import GROUPS, Group, ternary_format


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


def _fake_quantized(weight: Tensor, group: Group) -> Tensor:
    groups, scale = _groups_and_scale(weight, group)
    return straight_through(ungrouped(_trits(groups, scale).mul_(scale), weight.shape[-1]), weight)


class TernarySite(GridSite):
    """Quantizes one weight to ternary values; has no state."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group: Group = group

    def forward(self, weight: Tensor) -> Tensor:
        return _fake_quantized(weight, self.group)

    def stored(self, weight: Tensor) -> Stored:
        ternary = ternarize(weight, self.group)
        return Stored(ternary.trit, ternary.scale)

    def fault(self, weight: Tensor) -> str | None:
        groups = grouped(weight.detach().float(), self.group)
        return too_large(mean_magnitude(groups, self.group, weight.shape[-1]))


class TernaryQuantizer(PackedQuantizer):
    """Quantizer with three levels for each matrix (`group="tensor"`), output row (`"row"`) or 64, 128 or 256 neighbours
    in a row.

    Leading dimensions are independent: each of the stacked experts [E, out, in] has its own scales. Raises `ValueError`
    for a role that cannot be ternary. `activations` and `warmup` are those of `PackedQuantizer`.

    >>> TernaryQuantizer().fake_quantize(torch.tensor([[0.1, -1.0], [2.0, 0.9]]))
    tensor([[ 0., -1.],
            [ 1.,  1.]])
    >>> TernaryQuantizer().packed_bytes((2, 100, 256))
    10244
    """

    def __init__(
        self,
        roles: Iterable[ParameterRole | str] = (ParameterRole.MATRIX, ParameterRole.EXPERT),
        group: Group = "tensor",
        activations: Literal["int8"] | None = None,
        warmup: Warmup | None = None,
    ) -> None:
        if group not in GROUPS:
            raise ValueError(f"ternary: unknown group {group!r}; use {', '.join(map(str, GROUPS))}")
        super().__init__(ternary_format(group), checked_roles(roles), activations=activations, warmup=warmup)
        self.group: Group = group

    def fake_quantize(self, weight: Tensor) -> Tensor:
        """[..., out, in] to the same shape and dtype, on the ternary grid; the gradient passes unchanged."""
        return _fake_quantized(weight, self.group)

    def grid_site(self, shape: tuple[int, ...]) -> TernarySite:
        return TernarySite(self.group)
