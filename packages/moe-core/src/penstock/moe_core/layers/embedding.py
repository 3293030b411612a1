"""The embedding of tokens or positions.

Shape suffixes: B batch, S sequence, D model width, R rank, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.layers.factorised import factors, multiplied_out, projection
from penstock.moe_core.layers.linear import Linear
from penstock.moe_core.layers.site import Site, Sites


class Embedding(Sites, nn.Embedding):
    """Rows of a weight [V, D], used through its site; after `factorise`, of a weight [V, R] times a projection
    [D, R]."""

    def __init__(self, vocabulary_size: int, width: int) -> None:
        super().__init__(vocabulary_size, width)
        self.site = Site(ParameterRole.EMBEDDING)
        self.projection: Linear | None = None

    def forward(self, token_BS: Tensor) -> Tensor:
        row_BSR = F.embedding(token_BS, self.effective())
        return row_BSR if self.projection is None else self.projection(row_BSR)

    @property
    def rank(self) -> int | None:
        """Columns of the table of a factorised embedding."""
        return None if self.projection is None else self.embedding_dim

    def factorise(self, rank: int) -> None:
        table_VR, direction_DR = factors(self.weight, rank)
        self.weight = nn.Parameter(table_VR)
        self.embedding_dim = rank
        self.projection = projection(direction_DR)

    def whole(self) -> Tensor:
        """[V, D], multiplied out."""
        table = self.effective()
        return table if self.projection is None else multiplied_out(table, self.projection.effective())
