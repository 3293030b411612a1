"""Linear layers. Weights are fp32 masters; a layer computes in the dtype of its input.

Every module here that owns a weight is called when the weight is used, so that sharding, adapters and casts, which act
on module calls, see it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.layers.matmul import linear
from penstock.moe_core.layers.site import Site, Sites


class Matrix(Sites):
    """A weight [outputs, inputs], used through its site, and a bias."""

    role = ParameterRole.MATRIX

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.site = Site(self.role)

    def in_dtype(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The effective weight and the bias, cast."""
        return self.effective().to(dtype), None if self.bias is None else self.bias.to(dtype)

    def multiplied(self, x: Tensor) -> Tensor:
        """x W^T + b, by the site's product if it has one."""
        if self.site.product is None:
            return linear(self.read(x), *self.in_dtype(x.dtype))
        y: Tensor = self.site.product(x)
        return y if self.bias is None else y + self.bias


class Linear(Matrix):
    """y = x W^T + b.

    Computes in x's dtype: the fp32 master weight is cast on use, because `torch.autocast` does not reach
    `grouped_mm` and one rule for all layers is easier to reason about.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.multiplied(x)


class Projection(Matrix):
    """A linear layer whose product is computed together with others (see `joined`). Called with a dtype, it returns its
    weight and bias in that dtype. The module that multiplies, an attention or an MLP, is the smallest that can be
    sharded on its own."""

    def forward(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        return self.in_dtype(dtype)


def joined(x: Tensor, projections: Sequence[Projection]) -> Tensor:
    """The concatenated outputs of several layers for one input: one matrix product, and one gradient for x. All have
    one role, so they read x alike."""
    if any(projection.site.product for projection in projections):
        return torch.cat([projection.multiplied(x) for projection in projections], dim=-1)
    weights, biases = zip(*(projection(x.dtype) for projection in projections), strict=True)
    given = [bias for bias in biases if bias is not None]
    return linear(projections[0].read(x), torch.cat(weights), torch.cat(given) if given else None)
