"""The straight-through gradient."""

from __future__ import annotations

from torch import Tensor


def straight_through(value: Tensor, weight: Tensor) -> Tensor:
    """`value` forward, in the dtype of the weight; identity backward.

    `weight - weight.detach()` is exactly zero and carries the gradient, so the value is exactly on the grid, which
    `weight + (value - weight).detach()` would round off. (A custom `autograd.Function` is equivalent, but
    `torch.compile` of torch 2.11 gives it a gradient of zeros.) The sum also turns -0 into 0, as a code has no sign.
    """
    return value.to(weight.dtype) + (weight - weight.detach())
