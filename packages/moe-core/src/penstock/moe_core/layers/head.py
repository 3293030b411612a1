"""The head of a language model: logits, or the loss of known targets without their logits in memory.

Shape suffixes: T tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.layers.linear import Matrix
from penstock.moe_core.layers.loss import linear_cross_entropy
from penstock.moe_core.layers.matmul import linear


class Head(Matrix):
    """One matrix [V, D]. Loss and logits are both calls of this module, so hooks, sharding and casts that act on
    modules see them."""

    role = ParameterRole.HEAD

    def forward(
        self, hidden: Tensor, target_T: Tensor | None = None, mask_T: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [..., V] of hidden [..., D]; with targets, of hidden [T, D], what `linear_cross_entropy` returns."""
        hidden = self.read(hidden)
        if target_T is None:
            return linear(hidden, *self.in_dtype(hidden.dtype))
        return linear_cross_entropy(hidden, self.effective(), target_T, mask_T)
