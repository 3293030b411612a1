"""The parts every layer is made of. Weights are fp32 masters; a layer computes in the dtype of its input.

Shape suffixes: S sequence, D model width, H hidden width of an MLP, R rotated pairs of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import Quantizer
from penstock.moe_core import fused
from penstock.moe_core.products import linear


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
        return linear(x, self.effective_weight().to(x.dtype), bias)


def joined(x: Tensor, linears: Sequence[Linear]) -> Tensor:
    """The outputs of several layers of one input, side by side: one matrix product, and one gradient for x."""
    weight = torch.cat([linear.effective_weight().to(x.dtype) for linear in linears])
    biases = [linear.bias.to(x.dtype) for linear in linears if linear.bias is not None]
    return linear(x, weight, torch.cat(biases) if biases else None)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return fused.rms_norm(x, self.weight, self.epsilon)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int, quantizer: Quantizer | None = None) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, quantizer=quantizer)
        self.up_proj = Linear(hidden_size, intermediate_size, quantizer=quantizer)
        self.down_proj = Linear(intermediate_size, hidden_size, quantizer=quantizer)

    def forward(self, x_D: Tensor) -> Tensor:
        return self.down_proj(fused.swiglu(joined(x_D, (self.gate_proj, self.up_proj))))


def rotary_table(positions_S: Tensor, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin [S, R/2] fp32 of each pair's angle at the given positions."""
    exponent = torch.arange(0, rotary_dim, 2, device=positions_S.device, dtype=torch.float32) / rotary_dim
    angle_SR = positions_S.float()[:, None] * (theta**-exponent)[None, :]
    return angle_SR.cos(), angle_SR.sin()
