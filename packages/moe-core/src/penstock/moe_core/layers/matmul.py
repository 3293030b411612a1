"""Matrix products of linear layers, with the faster of the two libraries in a CPU build of torch.

`F.linear` in fp32 calls MKL, whose kernels leave AVX-512 unused on AMD processors; oneDNN's use it. On a 2-core AMD
EPYC they take 0.72 to 0.95 of MKL's time for y = x W^T and 0.83 to 0.98 for the gradient of x, at the sizes of
tests/benchmarks/train_step.py, and a training step takes 0.91 to 0.97; for the gradient of W MKL is the faster one.
torch has no public API for oneDNN's fp32 product; `mkldnn::_linear_pointwise` is the operator that its compiler emits.

Shape suffixes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# pyright: reportIncompatibleMethodOverride=false


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b over the last dimension of x [..., I]: `F.linear`, up to rounding."""
    if not takes_onednn(x, weight_OI):
        return F.linear(x, weight_OI, bias_O)
    y: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight_OI, bias_O)  # pyright: ignore[reportAssignmentType]
    return y.view(*x.shape[:-1], len(weight_OI))


def rows_times_transposed(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """x W^T, [N, O], without a gradient."""
    if not takes_onednn(x_NI, weight_OI):
        return torch.mm(x_NI, weight_OI.T)
    return torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, None, "none", [], "")


def takes_onednn(x: Tensor, weight: Tensor) -> bool:
    """fp32 on an AMD CPU with AVX-512, in a build of torch that has oneDNN; a `torch.compile` graph picks its own."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and ONEDNN
        and not torch.compiler.is_compiling()
    )


ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", "").startswith("AMD")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, bias_O, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x_NI, weight_OI = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        return (
            rows_times_transposed(grad_NO, weight_OI.T) if need_x else None,
            grad_NO.T @ x_NI if need_weight else None,
            grad_NO.sum(0) if need_bias else None,
        )
