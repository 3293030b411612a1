"""Differentiable penalties of routing: load balancing in three scopes, and the router z-loss.

The pure functions are additive: a batch may be split into micro-batches, ranks and padding in any way, and with the
counts and the number of tokens of the whole batch the parts sum to the whole, gradient included. That needs the counts
before the first backward. Averaging the penalties of micro-batches is a different objective: on a toy with one domain
per micro-batch, its gradient is 240 % off the full batch's, and that of a running buffer of counts 51 %.

The classes are the components. `SwitchLoss` balances the tokens of one forward pass, `SequenceLoss` each sequence,
`GlobalLoss` the whole batch of an optimizer step, however it is split.

Shape suffixes: B sequences, S tokens of each, T = B*S tokens, K experts per token, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from penstock.hooks.contracts import BatchLoad, Routing
from penstock.routers.load import chosen_slots, count_assignments

# Where the counts of the whole batch come from; see `penstock.hooks.contracts.BalanceLoss`.
CountsFrom = Literal["counts-first", "buffer", "lagged"]


def switch_loss(*, score_TE: Tensor, counts_E: Tensor, tokens: int | Tensor, mask_T: Tensor | None = None) -> Tensor:
    """E * sum_e f_e P_e, which is 1 for an even load (Switch Transformer, arXiv 2101.03961 Eq. 4).

    f_e = counts_e / sum(counts), the share of the actual assignments, with the selection bias and before capacity
    drops any; it has no gradient. P_e is the mean over counted tokens of their scores, normalised over
    experts as in DeepSeek-V3 (arXiv 2412.19437 Eq. 19), which changes nothing for a softmax.

    `counts_E` and `tokens` describe the batch to balance. `score_TE` may be a part of it: the losses of the parts sum
    to the loss of the whole. `mask_T` is True for tokens that count (None: all count). 0 if no token counts.
    """
    share_E = counts_E.to(score_TE.dtype) / counts_E.sum().clamp(min=1)
    return score_TE.shape[-1] * (share_E * mean_probability(score_TE, tokens, mask_T)).sum()


def z_loss(*, logits_TE: Tensor, tokens: int | Tensor, mask_T: Tensor | None = None) -> Tensor:
    """Mean over counted tokens of logsumexp(logits)^2, which keeps logits small (ST-MoE, arXiv 2202.08906 Eq. 5).

    `tokens` is the number of counted tokens of the whole batch; `logits_TE` may be a part of it. `mask_T` is True for
    tokens that count (None: all count). 0 if no token counts.
    """
    return _masked_sum(_counted_rows(logits_TE, mask_T).logsumexp(dim=-1).square(), mask_T) / at_least_one(tokens)


def sequence_loss(
    *, score_TE: Tensor, expert_TK: Tensor, sequences: int, slots_TK: Tensor | None = None, mask_T: Tensor | None = None
) -> Tensor:
    """The mean of the `switch_loss` of each sequence (DeepSeek-V3's complementary loss, arXiv 2412.19437 Eq. 17).

    The tokens are `sequences` of equal length, one after the other; sequences without counted tokens are left out
    of the mean. `slots_TK` and `mask_T` are True for what counts (None: everything counts).
    """
    experts = score_TE.shape[-1]
    mask_BS1 = _all_true_or(mask_T, score_TE).view(sequences, -1, 1)
    expert_BSK = expert_TK.view(sequences, -1, expert_TK.shape[-1])
    slot_BSK = mask_BS1 if slots_TK is None else mask_BS1 & slots_TK.view_as(expert_BSK)
    one_BN = slot_BSK.expand_as(expert_BSK).flatten(1).to(score_TE.dtype)
    counts_BE = score_TE.new_zeros(sequences, experts).scatter_add(1, expert_BSK.flatten(1), one_BN)
    share_BE = counts_BE / counts_BE.sum(dim=-1, keepdim=True).clamp(min=1)
    probability_TE = normalized(_counted_rows(score_TE, mask_T))
    probability_BSE = torch.where(mask_BS1, probability_TE.view(sequences, -1, experts), 0.0)
    tokens_B1 = mask_BS1.sum(dim=1)
    mean_BE = probability_BSE.sum(dim=1) / tokens_B1.clamp(min=1)
    counted = (tokens_B1 > 0).sum().clamp(min=1)
    return experts * (share_BE * mean_BE).sum() / counted


def normalized(score_TE: Tensor) -> Tensor:
    """Scores divided by their sum; a softmax is unchanged."""
    return score_TE / (score_TE.sum(dim=-1, keepdim=True) + 1e-20)


def mean_probability(score_TE: Tensor, tokens: int | Tensor, mask_T: Tensor | None) -> Tensor:
    """[E], this part's contribution to the mean of normalised scores over the `tokens` of the whole batch."""
    return _masked_sum(normalized(_counted_rows(score_TE, mask_T)), mask_T) / at_least_one(tokens)


def chosen_counts(routing: Routing, mask_T: Tensor | None = None) -> Tensor:
    """int64 [E], the choices of counted tokens in one forward pass, before capacity drops any."""
    (counts_E,) = count_assignments(
        [routing.expert_TK], experts=routing.score_TE.shape[-1], mask_T=mask_T, slots_TK=[chosen_slots(routing)]
    )
    return counts_E


def batch_of(routing: Routing, mask_T: Tensor | None = None) -> BatchLoad:
    """One forward pass as the whole batch."""
    return BatchLoad(chosen_counts(routing, mask_T), counted(routing.score_TE, mask_T))


@dataclass(slots=True)
class SwitchLoss:
    """`switch_loss` of the choices in one forward pass. Assignments that capacity drops afterwards count too; otherwise
    an overflowing expert would look no fuller than its capacity. Empty slots do not count.

    The default weight is the Switch Transformer's alpha (arXiv 2101.03961), which also counts before drops.
    """

    weight: float = 0.01

    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        score_TE = routing.score_TE
        counts_E = chosen_counts(routing, mask_T)
        return switch_loss(score_TE=score_TE, counts_E=counts_E, tokens=counted(score_TE, mask_T), mask_T=mask_T)


class SequenceLoss:
    """`sequence_loss` of the choices. DeepSeek-V3 and GLM-4.5 use 0.0001, together with loss-free balancing."""

    scope = "sequence"

    def __init__(self, weight: float = 0.0001) -> None:
        self.weight = weight

    def __call__(self, routing: Routing, mask_T: Tensor | None = None, *, sequences: int = 1) -> Tensor:
        return sequence_loss(
            score_TE=routing.score_TE,
            expert_TK=routing.expert_TK,
            sequences=sequences,
            slots_TK=chosen_slots(routing),
            mask_T=mask_T,
        )


class GlobalLoss:
    """`switch_loss` over the whole batch of an optimizer step (global-batch load balancing, arXiv 2501.11873): experts
    may specialise within a micro-batch as long as the batch is balanced.

    `counts` selects the source of the batch's counts. "counts-first" is exact: for more than one micro-batch it takes
    a pass without gradients. "buffer" is the paper's: the counts of the micro-batches so far. "lagged" uses those of
    the previous step. Called without `batch`, one forward pass is the whole batch.
    """

    def __init__(self, weight: float = 0.01, counts: CountsFrom = "counts-first") -> None:
        self.weight = weight
        self.scope = counts

    def __call__(self, routing: Routing, mask_T: Tensor | None = None, *, batch: BatchLoad | None = None) -> Tensor:
        batch = batch or batch_of(routing, mask_T)
        return switch_loss(score_TE=routing.score_TE, counts_E=batch.counts_E, tokens=batch.tokens, mask_T=mask_T)


@dataclass(slots=True)
class ZLoss:
    """`z_loss` of one forward pass. The default weight is ST-MoE's c_z (arXiv 2202.08906)."""

    weight: float = 0.001

    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        logits_TE = routing.logits_TE
        return z_loss(logits_TE=logits_TE, tokens=counted(logits_TE, mask_T), mask_T=mask_T)


def counted(values_TE: Tensor, mask_T: Tensor | None) -> int | Tensor:
    """The number of tokens that count."""
    return values_TE.shape[0] if mask_T is None else mask_T.sum()


def _counted_rows(values_TE: Tensor, mask_T: Tensor | None) -> Tensor:
    """The values with 1 in place of masked rows: what those become is left out, but its slope at a NaN is NaN."""
    return values_TE if mask_T is None else values_TE.where(mask_T[:, None], 1.0)


def _masked_sum(values: Tensor, mask_T: Tensor | None) -> Tensor:
    if mask_T is not None:
        values = torch.where(mask_T.view(-1, *[1] * (values.ndim - 1)), values, 0.0)
    return values.sum(dim=0)


def _all_true_or(mask_T: Tensor | None, values_TE: Tensor) -> Tensor:
    return torch.ones(len(values_TE), dtype=torch.bool, device=values_TE.device) if mask_T is None else mask_T


def at_least_one(tokens: int | Tensor) -> int | Tensor:
    return tokens.clamp(min=1) if isinstance(tokens, Tensor) else max(tokens, 1)
