"""Routed experts: all of a layer's experts as two stacked tensors, and the sort-compute-unsort that feeds them.

Shape suffixes: T tokens, K experts a token, N = T*K assignments, E experts, D model width, H expert width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import Quantizer, Routing
from penstock.moe_core import fused
from penstock.moe_core.backends import BACKENDS, choose


class Experts(nn.Module):
    """E SwiGLU experts. `gate_up_proj` [E, 2H, D] holds the gate in its first H rows, `down_proj` [E, D, H].

    `backend` names one of `penstock.moe_core.backends`; None chooses by what a kernel can take.
    """

    def __init__(
        self,
        experts: int,
        hidden_size: int,
        intermediate_size: int,
        quantizer: Quantizer | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden_size, intermediate_size))
        self.quantizer = quantizer
        self.backend = None if backend is None else BACKENDS[backend]

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
        gate_up_EFD, down_EDH = (weight.to(x_TD.dtype) for weight in self.effective_weights())
        expert_N = routing.expert_TK.flatten()
        order_N = expert_N.argsort(stable=True)
        position_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N), device=order_N.device))
        token_N, position_TK = order_N // k, position_N.view(tokens, k)
        counts_E = torch.bincount(expert_N, minlength=len(down_EDH))

        x_ND = fused.dispatch(x_TD, token_N, position_TK)
        multiply = (self.backend or choose(x_ND, down_EDH, counts_E)).multiply
        # Weighted here, where rows are H wide, and not after the second product, where they are D wide.
        weight_N = routing.weight_TK.flatten().index_select(0, order_N).to(x_TD.dtype)
        hidden_NH = fused.swiglu(multiply(x_ND, gate_up_EFD, counts_E), weight_N)
        return fused.combine(multiply(hidden_NH, down_EDH, counts_E), token_N, position_TK)
