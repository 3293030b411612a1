"""Attention for families that transformers computes only eagerly.

GPT-Neo knows neither SDPA nor its own mask apart: scores of all pairs, a `where`, a softmax, each in memory as a whole.
Here rows come in blocks that see only the keys before their end, which is 5 of 8 of all pairs in four blocks, and a
block stays in the cache.

Shape suffixes: N heads of all texts, S sequence, R rows of a block, C keys that a block sees, h width of a head.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

# pyright: reportIncompatibleMethodOverride=false

ROWS = 64  # of a block: 64 texts and heads of 256 keys are 4 MB of scores


def use_blocks(network: nn.Module) -> None:
    """Lets every eager GPT-Neo attention in `network` compute in blocks where that is the same: plain causal attention
    without dropout, padding and window."""
    for module in network.modules():
        if type(module) is GPTNeoSelfAttention:
            module._attn = types.MethodType(_attention, module)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    length = query.shape[-2]
    windowed = module.attention_type == "local" and length > module.config.window_size
    dropped = module.training and module.attn_dropout.p > 0
    # Only its numbers tell a mask that hides padding from plain causality.
    padded = attention_mask is not None and not _is_causal(attention_mask, length)
    plain = query.device.type == "cpu" and query.dtype == key.dtype == value.dtype == torch.float32
    if windowed or dropped or padded or not plain or key.shape[-2] != length:
        return GPTNeoSelfAttention._attn(module, query, key, value, attention_mask)
    out_NSh = causal_attention(*(each.flatten(0, 1) for each in (query, key, value)))
    return out_NSh.view_as(query), None


def _is_causal(mask: Tensor, length: int) -> bool:
    """Whether a mask, added or boolean, hides exactly the keys after each row's own."""
    seen = mask if mask.dtype == torch.bool else mask == 0
    causal_SS = torch.ones(length, length, dtype=torch.bool).tril()
    return seen.shape[-2:] == causal_SS.shape and bool((seen == causal_SS).all())


def causal_attention(query_NSh: Tensor, key_NSh: Tensor, value_NSh: Tensor) -> Tensor:
    """softmax(query key^T) value over earlier positions, without a scale."""
    return _Causal.apply(query_NSh, key_NSh, value_NSh)  # pyright: ignore[reportReturnType]


class _Causal(torch.autograd.Function):
    """Products whose result is a head wide take and give matrices [N, h, S]: with a width of 4, MKL needs a quarter of
    the time that [N, S, h] takes, and the same with 16 and more."""

    @staticmethod
    def forward(ctx: Any, query_NSh: Tensor, key_NSh: Tensor, value_NSh: Tensor) -> Tensor:
        out_NSh = torch.empty_like(query_NSh, memory_format=torch.contiguous_format)
        value_NhS = _transposed(value_NSh)
        shares: list[Tensor] = []
        # Added, which takes a third of the time of a masked fill; an overflow of a later token shows as nan.
        later_RR = torch.full((ROWS, ROWS), float("-inf")).triu(1)
        for rows, seen in _blocks(query_NSh.shape[1]):
            score_NRC = torch.bmm(query_NSh[:, rows], key_NSh[:, seen].transpose(1, 2))
            score_NRC[..., rows.start :] += later_RR[: score_NRC.shape[1], : score_NRC.shape[1]]
            share_NRC = score_NRC.softmax(dim=-1)
            out_NSh[:, rows] = torch.bmm(share_NRC, value_NhS[:, :, seen].transpose(1, 2))
            shares.append(share_NRC)
        ctx.save_for_backward(query_NSh, key_NSh, value_NSh, *(shares if any(ctx.needs_input_grad) else ()))
        return out_NSh

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NSh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_NSh, key_NSh, value_NSh, *shares = ctx.saved_tensors
        query_NhS, key_NhS, grad_NhS = (_transposed(each) for each in (query_NSh, key_NSh, grad_NSh))
        grad_query = torch.empty_like(query_NSh)
        grad_key_NhS, grad_value_NhS = torch.zeros_like(query_NhS), torch.zeros_like(query_NhS)
        for (rows, seen), share_NRC in zip(_blocks(query_NSh.shape[1]), shares, strict=True):
            grad_share_NRC = torch.bmm(grad_NSh[:, rows], value_NSh[:, seen].transpose(1, 2))
            grad_score_NRC = torch.ops.aten._softmax_backward_data(grad_share_NRC, share_NRC, -1, share_NRC.dtype)
            grad_query[:, rows] = torch.bmm(grad_score_NRC, key_NhS[:, :, seen].transpose(1, 2))
            grad_key_NhS[:, :, seen] += torch.bmm(query_NhS[:, :, rows], grad_score_NRC)
            grad_value_NhS[:, :, seen] += torch.bmm(grad_NhS[:, :, rows], share_NRC)
        return grad_query, grad_key_NhS.transpose(1, 2), grad_value_NhS.transpose(1, 2)


def _transposed(each_NSh: Tensor) -> Tensor:
    return each_NSh.transpose(1, 2).contiguous()


def _blocks(length: int) -> list[tuple[slice, slice]]:
    """The rows of each block, and the keys that they see."""
    ends = [min(start + ROWS, length) for start in range(0, length, ROWS)]
    return [(slice(start, end), slice(0, end)) for start, end in zip(range(0, length, ROWS), ends, strict=True)]
