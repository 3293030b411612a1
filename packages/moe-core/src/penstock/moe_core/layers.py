"""The parts every layer is made of. Weights are fp32 masters; a layer computes in the dtype of its input.

Shape suffixes: B batch, S sequence, D model width, H hidden width of an MLP, N heads, R rotated width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.hooks.contracts import Quantizer


class Linear(nn.Module):
    """y = x W^T + b, with W seen through the quantizer where there is one.

    Computes in x's dtype: the fp32 master weight is cast on use, because `torch.autocast` does not reach
    `grouped_mm` and one rule for all layers is easier to reason about.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, quantizer: Quantizer | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.quantizer = quantizer

    def effective_weight(self) -> Tensor:
        """The weight that the layer computes with."""
        return self.weight if self.quantizer is None else self.quantizer.fake_quantize(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.effective_weight().to(x.dtype), bias)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension; the statistic is fp32, the weight multiplies after the cast back
    (the order of transformers' Glm4MoeRMSNorm)."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        normalised = F.rms_norm(x.float(), (x.shape[-1],), None, self.epsilon).to(x.dtype)
        return normalised * self.weight.to(x.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int, quantizer: Quantizer | None = None) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, quantizer=quantizer)
        self.up_proj = Linear(hidden_size, intermediate_size, quantizer=quantizer)
        self.down_proj = Linear(intermediate_size, hidden_size, quantizer=quantizer)

    def forward(self, x_D: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_D)) * self.up_proj(x_D))


def rotary_table(positions_S: Tensor, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin [S, R] fp32 for the given positions; both halves hold the same angles (NeoX order)."""
    exponent = torch.arange(0, rotary_dim, 2, device=positions_S.device, dtype=torch.float32) / rotary_dim
    angle_SR = positions_S.float()[:, None] * (theta**-exponent)[None, :]
    angle_SR = torch.cat((angle_SR, angle_SR), dim=-1)
    return angle_SR.cos(), angle_SR.sin()


def rotate(x_BNSh: Tensor, cos_SR: Tensor, sin_SR: Tensor) -> Tensor:
    """Rotates the first R entries of each head and passes the rest on."""
    rotary_dim = cos_SR.shape[-1]
    turned, rest = x_BNSh[..., :rotary_dim], x_BNSh[..., rotary_dim:]
    first, second = turned.chunk(2, dim=-1)
    cos_SR, sin_SR = cos_SR.to(x_BNSh.dtype), sin_SR.to(x_BNSh.dtype)
    turned = turned * cos_SR + torch.cat((-second, first), dim=-1) * sin_SR
    return torch.cat((turned, rest), dim=-1)
