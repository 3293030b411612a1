"""Cross-entropy of a linear head, chunk by chunk: the logits of all tokens never exist at once.

At 151,552 tokens of vocabulary, fp32 logits and their gradient for one sequence of 4,096 are 5 GB; here they are one
chunk. The gradient is computed in the forward pass, while a chunk's logits are at hand, and only scaled in the backward
(the idea of Liger Kernel, arXiv 2410.10989): no logit is computed twice.

Shape suffixes: T tokens, C tokens per chunk, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from penstock.moe_core.layers.matmul import rows_times_transposed

# Logits held at once: 2M values are 8 MB in fp32, which stays in the cache and is still a large product. 1M and 4M take
# 1.02 and 1.05 times as long (T 2048, D 256, V 8192, two threads).
CHUNK_LOGITS = 2_097_152
ROWS = 1024  # limit for a chunk of a head that does not train
NO_TARGET = -(2**62)  # for the ignore index of torch, whose default gives a target of -100 no nats without a word


def counted_rows(hidden_TD: Tensor, target_T: Tensor, mask_T: Tensor | None) -> tuple[Tensor, Tensor]:
    """Hidden states and targets in which masked rows are 0, whatever they were: NaN, infinity, a target of -100.

    Multiplied by 0 afterwards, one NaN in a masked row would be NaN in the loss and in every gradient.
    """
    if mask_T is None:
        return hidden_TD, target_T
    return hidden_TD.where(mask_T[:, None], 0.0), target_T.where(mask_T, 0)


def linear_cross_entropy(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    target_T: Tensor,
    mask_T: Tensor | None = None,
    *,
    chunk_logits: int = CHUNK_LOGITS,
) -> tuple[Tensor, Tensor]:
    """(sum of the negative log-likelihoods of tokens in the mask, detached nats per token).

    The sum carries gradient to `hidden_TD` and `weight_VD`; nats are fp32, masked tokens have 0. What is masked may be
    anything (`counted_rows`); a target in the mask that is outside the vocabulary raises IndexError or RuntimeError.
    """
    hidden_TD, target_T = counted_rows(hidden_TD, target_T, mask_T)
    if not (torch.is_grad_enabled() and weight_VD.requires_grad):
        grad_wanted = torch.is_grad_enabled() and hidden_TD.requires_grad
        nll_T, grad_TD = _of_frozen_weight(hidden_TD, weight_VD, target_T, mask_T, chunk_logits, grad_wanted)
        return _summed(hidden_TD, nll_T, grad_TD), nll_T
    return _LinearCrossEntropy.apply(hidden_TD, weight_VD, target_T, mask_T, chunk_logits)  # pyright: ignore


def head_cross_entropy(
    logits_of: Callable[[Tensor], Tensor],
    hidden_TD: Tensor,
    target_T: Tensor,
    mask_T: Tensor | None,
    vocabulary_size: int,
    *,
    chunk_logits: int = CHUNK_LOGITS,
) -> tuple[Tensor, Tensor]:
    """The same for an untrained head that may be more than a matrix product: `logits_of` [C, D] returns [C, V].

    The sum carries gradient only to `hidden_TD`.
    """
    hidden_TD, target_T = counted_rows(hidden_TD, target_T, mask_T)
    grad_wanted = torch.is_grad_enabled() and hidden_TD.requires_grad
    parts: list[Tensor] = []
    grads = [hidden_TD[:0].detach()] if grad_wanted else []
    chunk = max(1, chunk_logits // vocabulary_size)
    for start in range(0, len(hidden_TD), chunk):
        rows = slice(start, start + chunk)
        hidden_CD = hidden_TD[rows].detach().requires_grad_(grad_wanted)
        with torch.set_grad_enabled(grad_wanted):
            nll_C = cross_entropy(logits_of(hidden_CD), target_T[rows], reduction="none", ignore_index=NO_TARGET)
            nll_C = nll_C if mask_T is None else nll_C.where(mask_T[rows], 0.0)
            grads += torch.autograd.grad(nll_C.sum(), hidden_CD) if grad_wanted else ()
        parts.append(nll_C.detach())
    nll_T = torch.cat(parts) if parts else hidden_TD.new_zeros(0, dtype=torch.float32)
    return _summed(hidden_TD, nll_T, torch.cat(grads) if grads else None), nll_T


def _summed(hidden_TD: Tensor, nll_T: Tensor, grad_TD: Tensor | None) -> Tensor:
    """The sum of the nats; its gradient, if any, is already known."""
    return nll_T.sum() if grad_TD is None else _KnownGradient.apply(hidden_TD, nll_T.sum(), grad_TD)  # pyright: ignore


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, loss: Tensor, grad_TD: Tensor) -> Tensor:
        ctx.save_for_backward(grad_TD)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad_loss, None, None


@torch.no_grad()
def _of_frozen_weight(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    target_T: Tensor,
    mask_T: Tensor | None,
    chunk_logits: int,
    grad_wanted: bool,
) -> tuple[Tensor, Tensor | None]:
    """(nats, their gradient in the hidden states, or None) of a head that does not train.

    The gradient of a token is sum_v p_v W_v - W_target, so each probability is needed only once, and chunks can split
    the vocabulary, each weighted by its share of the exponentials so far: many rows of few columns make faster products
    than few rows of all columns (at T 1024, D 64, V 50257 the whole takes half the time).
    """
    precise = torch.promote_types(torch.float32, hidden_TD.dtype)
    weight = weight_VD.to(hidden_TD.dtype)
    nll_T = torch.empty(len(hidden_TD), dtype=precise, device=hidden_TD.device)
    grad_TD = torch.empty_like(hidden_TD) if grad_wanted else None
    height = max(1, min(ROWS, len(hidden_TD), chunk_logits))
    columns = chunk_logits // height
    for start in range(0, len(hidden_TD), height):
        rows = slice(start, start + height)
        hidden_CD, target_C1 = hidden_TD[rows], target_T[rows, None]
        picked_CD = weight.index_select(0, target_T[rows])  # raises for a target outside the vocabulary
        peak_C1 = torch.full((len(hidden_CD), 1), -math.inf, dtype=precise, device=hidden_TD.device)
        sum_C1, target_logit_C1 = torch.zeros_like(peak_C1), torch.zeros_like(peak_C1)
        expected_CD = torch.zeros(hidden_CD.shape, dtype=precise, device=hidden_TD.device)
        for first in range(0, len(weight), columns):
            part = weight[first : first + columns]
            logits_CV = rows_times_transposed(hidden_CD, part).to(precise)
            column_C1 = target_C1 - first
            found_C1 = logits_CV.gather(1, column_C1.clamp(0, len(part) - 1))
            target_logit_C1 = found_C1.where((column_C1 >= 0) & (column_C1 < len(part)), target_logit_C1)
            share_CV, part_peak_C1, part_sum_C1 = _softmax(logits_CV)
            before_C1, peak_C1 = peak_C1, torch.maximum(peak_C1, part_peak_C1)
            kept_C1, added_C1 = (before_C1 - peak_C1).exp_(), (part_peak_C1 - peak_C1).exp_().mul_(part_sum_C1)
            sum_C1.mul_(kept_C1).add_(added_C1)
            if grad_wanted:
                mean_CD = rows_times_transposed(share_CV.to(part.dtype), part.T)
                expected_CD.mul_(kept_C1).add_(mean_CD * added_C1)
        counted_C1 = torch.ones_like(sum_C1) if mask_T is None else mask_T[rows, None].to(precise)
        nll_T[rows] = ((peak_C1 - target_logit_C1 + sum_C1.log()) * counted_C1).squeeze(1)
        if grad_TD is not None:
            grad_TD[rows] = expected_CD.div_(sum_C1).sub_(picked_CD).mul_(counted_C1)
    return nll_T, grad_TD


def _softmax(logits_CV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(softmax, peak [C, 1], sum of exp(logit - peak) [C, 1]). The largest probability is the reciprocal of that sum,
    so no exponentials other than the softmax's, the fastest in torch on a CPU, are needed. It reuses the logits'
    memory."""
    peak_C1 = logits_CV.amax(dim=-1, keepdim=True)
    share_CV = torch.softmax(logits_CV, dim=-1, out=logits_CV)
    return share_CV, peak_C1, share_CV.amax(dim=-1, keepdim=True).reciprocal_()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, target_T: Tensor, mask_T: Tensor | None, chunk_logits: int
    ) -> tuple[Tensor, Tensor]:
        need_hidden = ctx.needs_input_grad[0]
        weight = weight_VD.to(hidden_TD.dtype)
        grad_TD = torch.empty_like(hidden_TD) if need_hidden else None
        grad_VD = torch.zeros_like(weight_VD)
        nll_T = torch.empty(
            len(hidden_TD), dtype=torch.promote_types(torch.float32, hidden_TD.dtype), device=hidden_TD.device
        )
        chunk = max(1, chunk_logits // len(weight))
        for start in range(0, len(hidden_TD), chunk):
            rows = slice(start, start + chunk)
            hidden_CD, target_C1 = hidden_TD[rows], target_T[rows, None]
            logits_CV = rows_times_transposed(hidden_CD, weight).to(nll_T.dtype)
            target_logit_C1 = logits_CV.gather(1, target_C1)
            share_CV, peak_C1, sum_C1 = _softmax(logits_CV)
            counted_C1 = torch.ones_like(sum_C1) if mask_T is None else mask_T[rows, None].to(sum_C1.dtype)
            nll_T[rows] = ((peak_C1 - target_logit_C1 + sum_C1.log()) * counted_C1).squeeze(1)
            grad_CV = share_CV if mask_T is None else share_CV.mul_(counted_C1)
            grad_CV.scatter_add_(1, target_C1, -counted_C1)
            grad_CV = grad_CV.to(hidden_TD.dtype)
            if grad_TD is not None:
                grad_TD[rows] = rows_times_transposed(grad_CV, weight.T)
            grad_VD.addmm_(grad_CV.T, hidden_CD) if weight is weight_VD else grad_VD.add_(grad_CV.T @ hidden_CD)
        ctx.save_for_backward(grad_TD, grad_VD)
        ctx.mark_non_differentiable(nll_T)
        return nll_T.sum(), nll_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        grad_TD, grad_VD = ctx.saved_tensors
        scale = grad_loss.item() if grad_loss.device.type == "cpu" else grad_loss
        return None if grad_TD is None else grad_TD * scale, grad_VD * scale, None, None, None
