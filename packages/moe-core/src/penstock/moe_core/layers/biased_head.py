"""A head with a bias: that of masked-language modelling.

Shape suffixes: N rows, C rows of a chunk, D model width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from penstock.moe_core.layers.head import Head
from penstock.moe_core.layers.loss import CHUNK_LOGITS


class BiasedHead(Head):
    """A matrix [V, D] and a bias [V]. Rows without a counted target have no logits: a masked language model predicts a
    seventh of its positions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=True)

    def forward(
        self, hidden: Tensor, target_T: Tensor | None = None, mask_T: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [..., V] of hidden [..., D]; with targets, of hidden [T, D], their summed nats and the nats [T]."""
        if target_T is None:
            return super().forward(hidden)
        rows_N = torch.arange(len(target_T), device=target_T.device) if mask_T is None else mask_T.nonzero().squeeze(1)
        chunks = zip(*(each[rows_N].split(self._rows()) for each in (hidden, target_T)), strict=True)
        parts = [self._nats(*chunk) if len(rows_N) <= self._rows() else self._nats_again(*chunk) for chunk in chunks]
        nll_N = torch.cat(parts)
        nll_T = torch.zeros(target_T.shape, dtype=nll_N.dtype, device=nll_N.device)
        return nll_N.sum(), nll_T.index_copy(0, rows_N, nll_N.detach())

    def _rows(self) -> int:
        """Rows whose logits exist at once."""
        return max(1, CHUNK_LOGITS // len(self.weight))

    def _nats(self, hidden_CD: Tensor, target_C: Tensor) -> Tensor:
        logits_CV = super().forward(hidden_CD)
        assert isinstance(logits_CV, Tensor)
        return F.cross_entropy(logits_CV.float(), target_C, reduction="none")

    def _nats_again(self, hidden_CD: Tensor, target_C: Tensor) -> Tensor:
        """Its logits are computed a second time in the backward pass."""
        nll_C = checkpoint(self._nats, hidden_CD, target_C, use_reentrant=False)
        assert isinstance(nll_C, Tensor)
        return nll_C
