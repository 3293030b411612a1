"""Routed experts: all of a layer's experts as two stacked tensors, and the sort-compute-unsort that feeds them.

Two ways to multiply, one signature: `grouped` (one `grouped_mm` call) and `loop` (one matmul an expert). The choice is
by capability: `grouped_mm` on CPU takes fp32 and bf16 whose rows are multiples of 16 bytes and has no fp64. The loop
never indexes `w[i]`: the backward of that allocates a whole [E, ...] gradient for each expert, 19 to 58 times slower
at 160 experts; `unbind` does not.

Shape suffixes: T tokens, K experts a token, N = T*K assignments, E experts, D model width, H expert width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.hooks.contracts import Quantizer, Routing


class Experts(nn.Module):
    """E SwiGLU experts. `gate_up_proj` [E, 2H, D] holds the gate in its first H rows, `down_proj` [E, D, H]."""

    def __init__(
        self, experts: int, hidden_size: int, intermediate_size: int, quantizer: Quantizer | None = None
    ) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden_size, intermediate_size))
        self.quantizer = quantizer

    def effective_weights(self) -> tuple[Tensor, Tensor]:
        """The weights that the experts compute with. Gate and up are quantized as the two matrices that they are."""
        if self.quantizer is None:
            return self.gate_up_proj, self.down_proj
        gate_EHD, up_EHD = self.gate_up_proj.chunk(2, dim=1)
        gate_up = torch.cat((self.quantizer.fake_quantize(gate_EHD), self.quantizer.fake_quantize(up_EHD)), dim=1)
        return gate_up, self.quantizer.fake_quantize(self.down_proj)

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """Weighted sum of each token's experts, [T, D] in x's dtype."""
        tokens, k = routing.expert_TK.shape
        if tokens == 0:
            return x_TD
        gate_up, down = (weight.to(x_TD.dtype) for weight in self.effective_weights())
        expert_N = routing.expert_TK.flatten()
        order_N = expert_N.argsort(stable=True)
        inverse_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N), device=order_N.device))
        counts_E = torch.bincount(expert_N, minlength=down.shape[0])

        x_ND = _Scatter.apply(x_TD, order_N, inverse_N, k)
        gate_NH, up_NH = expert_linear(x_ND, gate_up, counts_E).chunk(2, dim=-1)
        y_ND = expert_linear(F.silu(gate_NH) * up_NH, down, counts_E)
        y_TKD = _Permute.apply(y_ND, inverse_N, order_N).view(tokens, k, -1)
        return (y_TKD * routing.weight_TK.to(y_TKD.dtype)[..., None]).sum(dim=1)


def expert_linear(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
    """x rows sorted by expert, times each expert's matrix transposed: [N, O]."""
    return (_grouped if _grouped_is_able(x_NI, weight_EOI) else _loop)(x_NI, weight_EOI, counts_E)


def _grouped_is_able(x_NI: Tensor, weight_EOI: Tensor) -> bool:
    if x_NI.device.type != "cpu":
        # CUDA's kernel is bf16 on compute capability 8 and up.
        return x_NI.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x_NI.device)[0] >= 8
    aligned = all(size * x_NI.element_size() % 16 == 0 for size in weight_EOI.shape[1:])
    return aligned and x_NI.dtype in (torch.float32, torch.bfloat16)


def _grouped(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
    offsets_E = counts_E.cumsum(0).to(torch.int32)
    return F.grouped_mm(x_NI, weight_EOI.transpose(-2, -1), offs=offsets_E)


def _loop(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
    parts = zip(x_NI.split(counts_E.tolist()), weight_EOI.unbind(0), strict=True)
    return torch.cat([F.linear(x, weight) for x, weight in parts])


class _Scatter(torch.autograd.Function):
    """x[order // k]: each token's row once for each of its experts, sorted by expert.

    The gradient of plain indexing is a serial `index_put_`; with the inverse permutation it is a gather and a sum.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order_N: Tensor, inverse_N: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(inverse_N)
        ctx.k = k
        return x_TD.index_select(0, order_N // k)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore
        (inverse_N,) = ctx.saved_tensors
        return grad_ND.index_select(0, inverse_N).unflatten(0, (-1, ctx.k)).sum(dim=1), None, None, None


class _Permute(torch.autograd.Function):
    """x[index], where `inverse` undoes `index`."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, index_N: Tensor, inverse_N: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_N)
        return x_ND.index_select(0, index_N)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        (inverse_N,) = ctx.saved_tensors
        return grad_ND.index_select(0, inverse_N), None, None
