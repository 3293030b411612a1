"""Grouped-query attention with optional QK-norm and rotary embedding, and the cache that generation reads.

Shape suffixes: B batch, S new positions, C cached and new positions, N query heads, M key/value heads, L = N + 2M, h
head width, O = N*h.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.moe_core.layers.linear import Linear, Projection, joined
from penstock.moe_core.layers.norm import RMSNorm
from penstock.moe_core.layers.rope import HeadNorm, rotated_heads


class KeyValueCache:
    """Keys and values of every layer for up to `capacity` positions, allocated once and filled in place.

    `length` positions are filled; `real_BC` is False for padding among them, or None if all are real.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        key_value_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, 2, batch, key_value_heads, capacity, head_dim)
        self._stored = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0
        self.real_BC: Tensor | None = None

    def extend(self, layer: int, key_BMSh: Tensor, value_BMSh: Tensor) -> tuple[Tensor, Tensor]:
        """Appends one layer's new keys and values; returns all of them. `length` moves once per pass, in `advance`."""
        end = self.length + key_BMSh.shape[2]
        if end > self._stored.shape[4]:
            raise ValueError(f"the cache holds {self._stored.shape[4]} positions, but {end} are needed")
        self._stored[layer, 0, :, :, self.length : end] = key_BMSh
        self._stored[layer, 1, :, :, self.length : end] = value_BMSh
        return self._stored[layer, 0, :, :, :end], self._stored[layer, 1, :, :, :end]

    def advance(self, positions: int, real_BC: Tensor | None) -> None:
        """Ends a pass over that many positions; records padding up to its end."""
        self.length += positions
        self.real_BC = real_BC

    def rewind(self, length: int) -> None:
        """Forgets all but the first `length` positions; see `penstock.hooks.contracts.RewindableCache`."""
        self.length = length
        self.real_BC = None if self.real_BC is None else self.real_BC[:, :length]


class Attention(nn.Module):
    """Self-attention of one layer, causal or in both directions."""

    def __init__(
        self,
        *,
        layer: int,
        hidden_size: int,
        heads: int,
        key_value_heads: int,
        head_dim: int,
        bias: bool = False,
        output_bias: bool = False,
        causal: bool = True,
        dropout: float = 0.0,
        qk_norm_epsilon: float | None = None,
        sub_norm_epsilon: float | None = None,
    ) -> None:
        """`layer` is the index in the cache; `bias` is that of queries, keys and values; `dropout` is the share of
        attention weights that training drops; `qk_norm_epsilon` None: no norm of queries and keys; `sub_norm_epsilon`
        None: no norm before the output projection."""
        super().__init__()
        self.layer = layer
        self.causal = causal
        self.dropout = dropout
        self.head_dim = head_dim
        self.heads = (heads, key_value_heads, key_value_heads)
        query, key_value = heads * head_dim, key_value_heads * head_dim
        self.q_proj = Projection(hidden_size, query, bias=bias)
        self.k_proj = Projection(hidden_size, key_value, bias=bias)
        self.v_proj = Projection(hidden_size, key_value, bias=bias)
        self.o_proj = Linear(query, hidden_size, bias=output_bias)
        self.sub_norm = None if sub_norm_epsilon is None else RMSNorm(query, sub_norm_epsilon)
        self.q_norm = None if qk_norm_epsilon is None else HeadNorm(head_dim, qk_norm_epsilon)
        self.k_norm = None if qk_norm_epsilon is None else HeadNorm(head_dim, qk_norm_epsilon)

    def forward(
        self,
        x_BSD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        visible: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """`rotary` None, for a layer without QK-norm: nothing is rotated. `visible`, broadcast to [B, N, S, C], is True
        if a new position sees another; None: plain causal, or every position sees all."""
        heads_BSLh = joined(x_BSD, (self.q_proj, self.k_proj, self.v_proj)).unflatten(-1, (-1, self.head_dim))
        query_BSNh, key_BSMh, value_BSMh = heads_BSLh.split(self.heads, dim=2)
        query_BNSh = _rotated(query_BSNh, self.q_norm, rotary).transpose(1, 2)
        key_BMCh = _rotated(key_BSMh, self.k_norm, rotary).transpose(1, 2)
        value_BMCh = value_BSMh.transpose(1, 2)
        if cache is not None:
            key_BMCh, value_BMCh = cache.extend(self.layer, key_BMCh, value_BMCh)
        out_BNSh = F.scaled_dot_product_attention(
            query_BNSh,
            key_BMCh,
            value_BMCh,
            attn_mask=visible,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal
            and visible is None
            and query_BNSh.shape[2] == key_BMCh.shape[2],  # a single new position sees everything
            enable_gqa=True,
        )
        out_BSO = out_BNSh.transpose(1, 2).flatten(2)
        return self.o_proj(out_BSO if self.sub_norm is None else self.sub_norm(out_BSO))


def _rotated(x_BSNh: Tensor, norm: HeadNorm | None, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    if rotary is None:
        return x_BSNh
    return rotated_heads(x_BSNh, None, 0.0, *rotary) if norm is None else norm(x_BSNh, *rotary)
