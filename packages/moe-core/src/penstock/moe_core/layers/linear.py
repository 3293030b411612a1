"""The linear layer. Weights are fp32 masters; a layer computes in the dtype of its input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import Quantizer
from penstock.moe_core.layers.matmul import linear


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
