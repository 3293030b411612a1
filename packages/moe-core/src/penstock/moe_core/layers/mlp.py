"""Feed-forward networks: SwiGLU, with its activation as one autograd node, and GELU.

The node keeps its inputs and at most one number per row, recomputes the rest in the backward pass, and writes into
memory that it owns. It equals its plain formula in value and gradient (gradcheck in fp64), and does not support double
backward.

Shape suffixes: N rows, D model width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from penstock.moe_core.layers.linear import Linear, Projection, joined
from penstock.moe_core.layers.norm import RMSNorm

# pyright: reportIncompatibleMethodOverride=false

# Elements of a block of rows: 1 MiB of fp32 was the fastest of 128 KiB to 1 MiB.
BLOCK_ELEMENTS = 2**18


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); with `sub_norm_epsilon`, an RMSNorm precedes the down projection."""

    def __init__(self, hidden_size: int, intermediate_size: int, *, sub_norm_epsilon: float | None = None) -> None:
        super().__init__()
        self.gate_proj = Projection(hidden_size, intermediate_size)
        self.up_proj = Projection(hidden_size, intermediate_size)
        self.down_proj = Linear(intermediate_size, hidden_size)
        self.sub_norm = None if sub_norm_epsilon is None else RMSNorm(intermediate_size, sub_norm_epsilon)

    def forward(self, x_D: Tensor) -> Tensor:
        hidden_H = swiglu(joined(x_D, (self.gate_proj, self.up_proj)))
        return self.down_proj(hidden_H if self.sub_norm is None else self.sub_norm(hidden_H))


class GeluMLP(nn.Module):
    """down(gelu(up(x))) with biases; `approximate` is torch's: `none` is the exact GELU, `tanh` that of GPT-2. With
    `sub_norm_epsilon`, an RMSNorm precedes the down projection."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        approximate: Literal["none", "tanh"],
        sub_norm_epsilon: float | None = None,
    ) -> None:
        super().__init__()
        self.up_proj = Linear(hidden_size, intermediate_size, bias=True)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=True)
        self.sub_norm = None if sub_norm_epsilon is None else RMSNorm(intermediate_size, sub_norm_epsilon)
        self.approximate: Literal["none", "tanh"] = approximate

    def forward(self, x_D: Tensor) -> Tensor:
        hidden_H = F.gelu(self.up_proj(x_D), approximate=self.approximate)
        return self.down_proj(hidden_H if self.sub_norm is None else self.sub_norm(hidden_H))


def swiglu(gate_up_N2H: Tensor, weight_N: Tensor | None = None) -> Tensor:
    """silu(gate) * up, of a tensor [..., 2H] with the gate in its first half; each row times its weight, if given."""
    hidden_NH: Tensor = _SwiGLU.apply(gate_up_N2H.flatten(0, -2), weight_N)  # pyright: ignore[reportAssignmentType]
    return hidden_NH.unflatten(0, gate_up_N2H.shape[:-1])


def _blocks(x: Tensor) -> Iterator[slice]:
    """Blocks of rows of x [N, ...], on a CPU sized for the cache, so that a chain of operations reads memory once."""
    rows = max(1, BLOCK_ELEMENTS // x.shape[-1] if x.device.type == "cpu" else len(x))
    return (slice(start, start + rows) for start in range(0, len(x), rows))


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up_N2H: Tensor, weight_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate_up_N2H, weight_N)
        gate_NH, up_NH = gate_up_N2H.chunk(2, dim=-1)
        hidden_NH = F.silu(gate_NH).mul_(up_NH)
        return hidden_NH if weight_N is None else hidden_NH.mul_(weight_N[..., None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NH: Tensor) -> tuple[Tensor, Tensor | None]:
        gate_up_N2H, weight_N = ctx.saved_tensors
        grad_gate_up_N2H = torch.empty_like(gate_up_N2H)
        grad_weight_N = None if weight_N is None else torch.empty_like(weight_N)
        for rows in _blocks(gate_up_N2H):
            gate, up = gate_up_N2H[rows].chunk(2, dim=-1)
            grad_gate, grad_up = grad_gate_up_N2H[rows].chunk(2, dim=-1)
            grad, activated = grad_NH[rows], F.silu(gate)
            if weight_N is not None and grad_weight_N is not None:
                torch.linalg.vecdot(activated * up, grad, out=grad_weight_N[rows])
                grad = grad * weight_N[rows, None]
            torch.mul(grad, activated, out=grad_up)
            torch.mul(grad, up, out=activated)
            torch.ops.aten.silu_backward.grad_input(activated, gate, grad_input=grad_gate)
        return grad_gate_up_N2H, grad_weight_N
