"""Grouped-query attention with QK-norm and partial rotary embedding, and the cache that generation reads.

Shape suffixes: B batch, S new positions, C cached and new positions, N query heads, M key/value heads, h head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.hooks.contracts import Quantizer
from penstock.moe_core.config import GlmMoeConfig
from penstock.moe_core.layers import Linear, RMSNorm, rotate


class KeyValueCache:
    """Keys and values of every layer for up to `capacity` positions, allocated once and filled in place."""

    def __init__(
        self, config: GlmMoeConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_hidden_layers, 2, batch, config.num_key_value_heads, capacity, config.head_dim)
        self._stored = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def extend(self, layer: int, key_BMSh: Tensor, value_BMSh: Tensor) -> tuple[Tensor, Tensor]:
        """Appends one layer's new keys and values; returns all of them. `length` moves once a pass, by `advance`."""
        end = self.length + key_BMSh.shape[2]
        if end > self._stored.shape[4]:
            raise ValueError(f"the cache holds {self._stored.shape[4]} positions, and {end} are needed")
        self._stored[layer, 0, :, :, self.length : end] = key_BMSh
        self._stored[layer, 1, :, :, self.length : end] = value_BMSh
        return self._stored[layer, 0, :, :, :end], self._stored[layer, 1, :, :, :end]

    def advance(self, positions: int) -> None:
        self.length += positions


class Attention(nn.Module):
    """Causal self-attention of one layer."""

    def __init__(self, config: GlmMoeConfig, layer: int, quantizer: Quantizer | None) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        query, key_value = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = Linear(config.hidden_size, query, bias=bias, quantizer=quantizer)
        self.k_proj = Linear(config.hidden_size, key_value, bias=bias, quantizer=quantizer)
        self.v_proj = Linear(config.hidden_size, key_value, bias=bias, quantizer=quantizer)
        self.o_proj = Linear(query, config.hidden_size, quantizer=quantizer)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.use_qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.use_qk_norm else None

    def forward(self, x_BSD: Tensor, rotary: tuple[Tensor, Tensor], cache: KeyValueCache | None) -> Tensor:
        query_BNSh = self._heads(self.q_proj(x_BSD), self.q_norm)
        key_BMSh = self._heads(self.k_proj(x_BSD), self.k_norm)
        value_BMSh = self._heads(self.v_proj(x_BSD), None)
        query_BNSh, key_BMSh = rotate(query_BNSh, *rotary), rotate(key_BMSh, *rotary)
        mask_SC = None
        if cache is not None:
            before, new = cache.length, x_BSD.shape[1]
            key_BMSh, value_BMSh = cache.extend(self.layer, key_BMSh, value_BMSh)
            if before and new > 1:  # one new position sees everything; a first pass is plainly causal
                mask_SC = torch.ones(new, before + new, dtype=torch.bool, device=x_BSD.device).tril(before)
        out_BNSh = F.scaled_dot_product_attention(
            query_BNSh,
            key_BMSh,
            value_BMSh,
            attn_mask=mask_SC,
            is_causal=mask_SC is None and query_BNSh.shape[2] == key_BMSh.shape[2],
            enable_gqa=True,
        )
        return self.o_proj(out_BNSh.transpose(1, 2).flatten(2))

    def _heads(self, x_BSF: Tensor, norm: RMSNorm | None) -> Tensor:
        """[B, S, heads * h] to [B, heads, S, h], normalised per head."""
        x_BSNh = x_BSF.unflatten(-1, (-1, self.head_dim))
        return (x_BSNh if norm is None else norm(x_BSNh)).transpose(1, 2)
