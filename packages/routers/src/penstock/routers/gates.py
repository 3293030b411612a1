"""Gates with more than one matrix.

Shape suffixes: T tokens, D model width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.routers.topk import SoftmaxTopK


class TwoLayer(SoftmaxTopK):
    """Softmax top-k over a small network, D to D/2 to E with a GELU between, as used for small adapters: with
    a frozen base, hidden states cannot adapt to a linear gate.

    `inner_weight` [D/2, D] and `weight` [E, D/2] are fp32 parameters.
    """

    score_function = "two-layer"
    inner_weight: Tensor

    def register_gate(self) -> None:
        if self.hidden_size < 2:
            raise ValueError(f"hidden_size={self.hidden_size}: a gate of half the width needs at least 2")
        inner = self.hidden_size // 2
        self.inner_weight = nn.Parameter(torch.empty(inner, self.hidden_size, dtype=torch.float32))
        self.weight = nn.Parameter(torch.empty(self.experts, inner, dtype=torch.float32))

    def reset_parameters(self) -> None:
        """Draws `weight` with std 0.02, and `inner_weight` so that it preserves the scale of its input."""
        super().reset_parameters()
        nn.init.normal_(self.inner_weight, std=self.hidden_size**-0.5)

    def gate(self, hidden_TD: Tensor) -> Tensor:
        return functional.linear(
            functional.gelu(functional.linear(hidden_TD, self.inner_weight.float())), self.weight.float()
        )
