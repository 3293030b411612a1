"""Rotary position embedding over the first part of a head, with the norm of queries and keys before it.

Each autograd node here keeps its inputs and at most one number per row, recomputes the rest in the backward pass, and
writes into memory that it owns. Every node equals its plain formula in value and gradient (gradcheck in fp64), and none
supports double backward.

Shape suffixes: B batch, S sequence, N heads, h head width, R rotated pairs of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from penstock.moe_core.layers.norm import RMSNorm, normalised, normalised_backward

# pyright: reportIncompatibleMethodOverride=false


def rotary_table(position_S: Tensor, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin [..., S, R/2] fp32 of each pair's angle at the positions [..., S]."""
    exponent = torch.arange(0, rotary_dim, 2, device=position_S.device, dtype=torch.float32) / rotary_dim
    angle_SR = position_S.float()[..., None] * theta**-exponent
    return angle_SR.cos(), angle_SR.sin()


def rotated_heads(x_BSNh: Tensor, norm_h: Tensor | None, epsilon: float, cos_SR: Tensor, sin_SR: Tensor) -> Tensor:
    """Each head is normalised like `rms_norm` if there is a weight, then its first 2R entries are rotated by the angles
    of its position, [S, R] or [B, S, R]: entry i pairs with entry i + R (NeoX order); the rest is unchanged."""
    return _RotatedHeads.apply(x_BSNh, norm_h, epsilon, cos_SR, sin_SR)  # pyright: ignore[reportReturnType]


class HeadNorm(RMSNorm):
    """RMSNorm of each head and its rotation, as one node."""

    def forward(self, x_BSNh: Tensor, cos_SR: Tensor, sin_SR: Tensor) -> Tensor:
        return rotated_heads(x_BSNh, self.weight, self.epsilon, cos_SR, sin_SR)


class _RotatedHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BSNh: Tensor, norm_h: Tensor | None, epsilon: float, cos_SR: Tensor, sin_SR: Tensor
    ) -> Tensor:
        if norm_h is None:
            ctx.save_for_backward(cos_SR, sin_SR)
            return _rotate_(x_BSNh.clone(memory_format=torch.contiguous_format), cos_SR, sin_SR)
        y_BSNh, scale_BSN1 = normalised(x_BSNh, norm_h, epsilon)
        ctx.save_for_backward(cos_SR, sin_SR, x_BSNh, norm_h, scale_BSN1)
        return _rotate_(y_BSNh, cos_SR, sin_SR)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BSNh: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        cos_SR, sin_SR, *normalised = ctx.saved_tensors
        grad_BSNh = _rotate_(grad_BSNh.clone(memory_format=torch.contiguous_format), cos_SR, -sin_SR)
        if not normalised:
            return grad_BSNh, None, None, None, None
        x_BSNh, norm_h, scale_BSN1 = normalised
        return *normalised_backward(x_BSNh, norm_h, scale_BSN1, grad_BSNh), None, None, None


def _rotate_(x_BSNh: Tensor, cos_SR: Tensor, sin_SR: Tensor) -> Tensor:
    cos, sin = (table_SR.to(x_BSNh.dtype).unsqueeze(-2) for table_SR in (cos_SR, sin_SR))
    if x_BSNh.device.type == "cpu":  # broadcasting over heads takes 2.4 times as long as one table per head
        cos, sin = (table.expand(*table.shape[:-2], x_BSNh.shape[2], -1).contiguous() for table in (cos, sin))
    pairs = cos_SR.shape[-1]
    first, second = x_BSNh[..., :pairs], x_BSNh[..., pairs : 2 * pairs]
    turned = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(turned)
    return x_BSNh
