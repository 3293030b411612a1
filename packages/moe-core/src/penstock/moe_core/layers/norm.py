"""RMSNorm, one pass over memory forward and one back, and LayerNorm, for which torch has such a node.

Each autograd node here keeps its inputs and at most one number per row, recomputes the rest in the backward pass, and
writes into memory that it owns. Every node equals its plain formula in value and gradient (gradcheck in fp64), and none
supports double backward.

Shape suffixes: N rows, D width of a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# pyright: reportIncompatibleMethodOverride=false


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon)


class LayerNorm(nn.Module):
    """(x - mean(x)) / std(x) * weight + bias over the last dimension; the statistics are fp32 or wider."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.epsilon)


def rms_norm(x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension; the statistic is fp32 or wider, and the weight
    multiplies after the cast back to x's dtype (the order of transformers' Glm4MoeRMSNorm)."""
    return _RMSNorm.apply(x, weight_D, epsilon)  # pyright: ignore[reportReturnType]


def normalised(x: Tensor, weight_D: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(the result, 1 / rms of each row)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
    scale = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * scale).to(x.dtype).mul_(weight_D.to(x.dtype)), scale


def normalised_backward(x: Tensor, weight_D: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of x, gradient of the weight)."""
    unit = x * scale
    product = unit * grad
    grad_D = product.sum_to_size(weight_D.shape)
    mean = (product @ weight_D).unsqueeze(-1).div_(x.shape[-1])
    grad_x = (grad * weight_D).addcmul_(unit, mean, value=-1).mul_(scale)
    return grad_x.to(x.dtype), grad_D.to(weight_D.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        y, scale = normalised(x, weight_D, epsilon)
        ctx.save_for_backward(x, weight_D, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_D, scale = ctx.saved_tensors
        return *normalised_backward(x, weight_D, scale, grad), None
