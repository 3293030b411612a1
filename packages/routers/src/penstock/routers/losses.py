"""Differentiable penalties of routing: Switch load balancing and the router z-loss.

The pure functions are additive: a batch may be cut into micro-batches, ranks and padding at will, and with the counts
and the token number of the whole batch the parts sum to the whole, gradient included. That needs the counts before the
first backward. Averaging the penalties of micro-batches instead is not the same objective: on a toy with one domain a
micro-batch, its gradient is 240 % off the full batch's, a running buffer of counts 51 %.

The classes are the components: one layer, one forward pass, balanced over the tokens it holds.

Shape suffixes: T tokens, K experts a token, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from penstock.hooks.contracts import Routing
from penstock.routers.load import chosen_slots, count_assignments


def switch_loss(*, score_TE: Tensor, counts_E: Tensor, tokens: int | Tensor, mask_T: Tensor | None = None) -> Tensor:
    """E * sum_e f_e P_e, which is 1 for an even load (Switch Transformer, arXiv 2101.03961 Eq. 4).

    f_e = counts_e / sum(counts), the share of the assignments that were really chosen, selection bias included and
    before capacity drops any; it has no gradient. P_e is the mean over counted tokens of their scores, normalised over
    experts as in DeepSeek-V3 (arXiv 2412.19437 Eq. 19), which changes nothing for a softmax.

    `counts_E` and `tokens` describe the batch that is to be balanced, of which `score_TE` may be a part: the losses of
    the parts sum to the loss of the whole. `mask_T` is True for tokens that count (None: all do). 0 where none do.
    """
    share_E = counts_E.to(score_TE.dtype) / counts_E.sum().clamp(min=1)
    probability_TE = score_TE / (score_TE.sum(dim=-1, keepdim=True) + 1e-20)
    mean_E = _masked_sum(probability_TE, mask_T) / _at_least_one(tokens)
    return score_TE.shape[-1] * (share_E * mean_E).sum()


def z_loss(*, logits_TE: Tensor, tokens: int | Tensor, mask_T: Tensor | None = None) -> Tensor:
    """Mean over counted tokens of logsumexp(logits)^2, which keeps logits small (ST-MoE, arXiv 2202.08906 Eq. 5).

    `tokens` is the number of counted tokens of the whole batch, of which `logits_TE` may be a part. `mask_T` is True
    for tokens that count (None: all do). 0 where none do.
    """
    return _masked_sum(logits_TE.logsumexp(dim=-1).square(), mask_T) / _at_least_one(tokens)


@dataclass(slots=True)
class SwitchLoss:
    """`switch_loss` of one forward pass, of what tokens chose: assignments that capacity drops afterwards count too, or
    an expert that overflows would look no fuller than its capacity. Empty slots do not count.

    The default weight is the Switch Transformer's alpha (arXiv 2101.03961), which also counts before drops.
    """

    weight: float = 0.01

    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        score_TE = routing.score_TE
        (counts_E,) = count_assignments(
            [routing.expert_TK], experts=score_TE.shape[-1], mask_T=mask_T, slots_TK=[chosen_slots(routing)]
        )
        return switch_loss(score_TE=score_TE, counts_E=counts_E, tokens=_counted(score_TE, mask_T), mask_T=mask_T)


@dataclass(slots=True)
class ZLoss:
    """`z_loss` of one forward pass. The default weight is ST-MoE's c_z (arXiv 2202.08906)."""

    weight: float = 0.001

    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        logits_TE = routing.logits_TE
        return z_loss(logits_TE=logits_TE, tokens=_counted(logits_TE, mask_T), mask_T=mask_T)


def _masked_sum(values: Tensor, mask_T: Tensor | None) -> Tensor:
    if mask_T is not None:
        values = torch.where(mask_T.view(-1, *[1] * (values.ndim - 1)), values, 0.0)
    return values.sum(dim=0)


def _counted(values_TE: Tensor, mask_T: Tensor | None) -> int | Tensor:
    return values_TE.shape[0] if mask_T is None else mask_T.sum()


def _at_least_one(tokens: int | Tensor) -> int | Tensor:
    return tokens.clamp(min=1) if isinstance(tokens, Tensor) else max(tokens, 1)
