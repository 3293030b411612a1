"""The head of a language model: logits, or the loss of known targets without their logits in memory.

Shape suffixes: T tokens, D model width, R rank, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.layers.factorised import factors, multiplied_out, projection
from penstock.moe_core.layers.linear import Linear, Matrix
from penstock.moe_core.layers.loss import linear_cross_entropy
from penstock.moe_core.layers.matmul import linear


class Head(Matrix):
    """One matrix [V, D]; after `factorise`, a projection [R, D] and a matrix [V, R]. Loss and logits are both calls of
    this module, so hooks, sharding and casts that act on modules see them."""

    role = ParameterRole.HEAD

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.projection: Linear | None = None

    def forward(
        self, hidden: Tensor, target_T: Tensor | None = None, mask_T: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [..., V] of hidden [..., D]; with targets, of hidden [T, D], what `linear_cross_entropy` returns."""
        hidden = self.read(hidden if self.projection is None else self.projection(hidden))
        if target_T is None:
            return linear(hidden, *self.in_dtype(hidden.dtype))
        return linear_cross_entropy(hidden, self.effective(), target_T, mask_T)

    def factorise(self, rank: int) -> None:
        table_VR, direction_DR = factors(self.weight, rank)
        self.weight = nn.Parameter(table_VR)
        self.projection = projection(direction_DR.T.contiguous())

    def whole(self) -> Tensor:
        """[V, D], multiplied out."""
        table = self.effective()
        return table if self.projection is None else multiplied_out(table, self.projection.effective().T)
