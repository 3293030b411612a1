"""The embedding of tokens.

Shape suffixes: B batch, S sequence, D model width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from penstock.hooks.contracts import ParameterRole
from penstock.moe_core.layers.site import Site, Sites


class Embedding(Sites, nn.Embedding):
    """Rows of a weight [V, D], used through its site."""

    def __init__(self, vocabulary_size: int, width: int) -> None:
        super().__init__(vocabulary_size, width)
        self.site = Site(ParameterRole.EMBEDDING)

    def forward(self, token_BS: Tensor) -> Tensor:
        return F.embedding(token_BS, self.effective())
