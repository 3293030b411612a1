"""Cross-entropy of a linear head, chunk by chunk: the logits of all tokens never exist at once.

At 151,552 tokens of vocabulary, fp32 logits and their gradient for one sequence of 4,096 are 5 GB; here they are one
chunk. The gradient is computed in the forward pass, while a chunk's logits are at hand, and only scaled in the backward
(the idea of Liger Kernel, arXiv 2410.10989): no logit is computed twice.

Shape suffixes: T tokens, C tokens of a chunk, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from penstock.moe_core.products import rows_times_transposed

# Logits held at once: 2M values are 8 MB in fp32, which stays in the cache and is still a large product. 1M and 4M take
# 1.02 and 1.05 times as long (T 2048, D 256, V 8192, two threads).
CHUNK_LOGITS = 2_097_152


def linear_cross_entropy(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    target_T: Tensor,
    mask_T: Tensor | None = None,
    *,
    chunk_logits: int = CHUNK_LOGITS,
) -> tuple[Tensor, Tensor]:
    """(sum of the negative log-likelihoods that the mask counts, nats of each token detached).

    The sum carries gradient to `hidden_TD` and `weight_VD`; nats are fp32, masked tokens have 0.
    """
    if not torch.is_grad_enabled():  # a custom function is told which inputs require grad, not whether grad is wanted
        hidden_TD, weight_VD = hidden_TD.detach(), weight_VD.detach()
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
    """The same of a head that may do more than multiply, and does not train: `logits_of` [C, D] returns [C, V].

    The sum carries gradient to `hidden_TD` alone.
    """
    chunk = max(1, chunk_logits // vocabulary_size)
    wanted = torch.is_grad_enabled() and hidden_TD.requires_grad
    return _HeadCrossEntropy.apply(hidden_TD, logits_of, target_T, mask_T, chunk, wanted)  # pyright: ignore


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        logits_of: Callable[[Tensor], Tensor],
        target_T: Tensor,
        mask_T: Tensor | None,
        chunk: int,
        wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        parts: list[Tensor] = []
        grads: list[Tensor] = []
        for start in range(0, len(hidden_TD), chunk):
            rows = slice(start, start + chunk)
            hidden_CD = hidden_TD[rows].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                nll_C = cross_entropy(logits_of(hidden_CD), target_T[rows], reduction="none")
                nll_C = nll_C if mask_T is None else nll_C * mask_T[rows]
                grads += torch.autograd.grad(nll_C.sum(), hidden_CD) if wanted else ()
            parts.append(nll_C.detach())
        nll_T = torch.cat(parts) if parts else hidden_TD.new_zeros(0, dtype=torch.float32)
        ctx.save_for_backward(torch.cat(grads) if grads else torch.zeros_like(hidden_TD))
        ctx.mark_non_differentiable(nll_T)
        return nll_T.sum(), nll_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _grad_nll: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        return ctx.saved_tensors[0] * grad_loss, None, None, None, None, None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, target_T: Tensor, mask_T: Tensor | None, chunk_logits: int
    ) -> tuple[Tensor, Tensor]:
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        weight = weight_VD.to(hidden_TD.dtype)
        grad_TD = torch.empty_like(hidden_TD) if need_hidden else None
        grad_VD = torch.zeros_like(weight_VD) if need_weight else None
        nll_T = torch.empty(
            len(hidden_TD), dtype=torch.promote_types(torch.float32, hidden_TD.dtype), device=hidden_TD.device
        )
        chunk = max(1, chunk_logits // len(weight))
        for start in range(0, len(hidden_TD), chunk):
            rows = slice(start, start + chunk)
            hidden_CD, target_C1 = hidden_TD[rows], target_T[rows, None]
            # One exponential serves the loss and the gradient; `logsumexp` and a second one take twice the time.
            logits_CV = rows_times_transposed(hidden_CD, weight).to(nll_T.dtype)
            logits_CV.sub_(logits_CV.amax(dim=-1, keepdim=True))
            target_logit_C1 = logits_CV.gather(1, target_C1)
            sum_C1 = logits_CV.exp_().sum(dim=-1, keepdim=True)
            counted_C1 = torch.ones_like(sum_C1) if mask_T is None else mask_T[rows, None].to(sum_C1.dtype)
            nll_T[rows] = ((sum_C1.log() - target_logit_C1) * counted_C1).squeeze(1)
            if grad_TD is not None and not need_weight:
                # A frozen head: dividing and picking rows of [C, D] instead of passing over the [C, V] logits again.
                picked_CD = weight.index_select(0, target_C1.squeeze(1))
                expected_CD = rows_times_transposed(logits_CV.to(weight.dtype), weight.T).to(sum_C1.dtype)
                grad_TD[rows] = expected_CD.div_(sum_C1).sub_(picked_CD).mul_(counted_C1)
                continue
            if not (need_hidden or need_weight):
                continue
            grad_CV = logits_CV.mul_(counted_C1 / sum_C1)
            grad_CV.scatter_add_(1, target_C1, -counted_C1)
            grad_CV = grad_CV.to(hidden_TD.dtype)
            if grad_TD is not None:
                grad_TD[rows] = rows_times_transposed(grad_CV, weight.T)
            if grad_VD is not None:
                grad_VD.addmm_(grad_CV.T, hidden_CD) if weight is weight_VD else grad_VD.add_(grad_CV.T @ hidden_CD)
        ctx.save_for_backward(grad_TD, grad_VD)
        ctx.mark_non_differentiable(nll_T)
        return nll_T.sum(), nll_T

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_loss: Tensor, _grad_nll: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_TD, grad_VD = ctx.saved_tensors
        scale = grad_loss.item() if grad_loss.device.type == "cpu" else grad_loss
        return (
            None if grad_TD is None else grad_TD * scale,
            None if grad_VD is None else grad_VD * scale,
            None,
            None,
            None,
        )
