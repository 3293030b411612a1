"""Measures of imbalance as penalties: the Gini coefficient, variance, coefficient of variation and entropy of the load.

The load itself is a count and has no gradient. The value of each loss is the measure of the real load, the choices of
tokens. Its gradient is the measure's derivative at that load, passed to the mean probabilities of the router
(straight-through): the probability of an overloaded expert falls. Measures of the mean probabilities would be blind:
the probabilities may be even while every token slightly prefers the same experts.

All are 0 for an even load, and additive in the sense of `losses`: with the whole batch's load, the parts of any split
sum to the value and to the gradient of the whole.

Shape suffixes: T tokens, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from penstock.hooks.contracts import BatchLoad, Routing
from penstock.routers.losses import CountsFrom, at_least_one, batch_of, counted, mean_probability

# Dead experts have no logarithm. At a millionth of the load it is -13.8, and x log x is still right to 1e-5.
SMALLEST_SHARE = 1e-6
# Under the root of the coefficient of variation, whose derivative at an even load would be infinite.
SMALLEST_VARIANCE = 1e-12


def variance(share_E: Tensor) -> Tensor:
    """Variance of the load in units of the mean load; `share_E` sums to 1. E - 1 if one expert has all of the load."""
    return (share_E * share_E.shape[-1] - 1).square().mean()


def variation(share_E: Tensor) -> Tensor:
    """Coefficient of variation: the standard deviation of the load in units of the mean load."""
    return (variance(share_E) + SMALLEST_VARIANCE).sqrt()


def gini(share_E: Tensor) -> Tensor:
    """Gini coefficient: mean absolute difference of two experts over twice the mean; equal loads have no gradient."""
    return (share_E.unsqueeze(-1) - share_E).abs().mean() * share_E.shape[-1] / 2


def entropy_gap(share_E: Tensor) -> Tensor:
    """1 - entropy / log E: 0 for an even load, 1 if one expert has all of the load."""
    if share_E.shape[-1] == 1:
        return 0.0 * share_E.sum()
    return 1 + (share_E * share_E.clamp(min=SMALLEST_SHARE).log()).sum() / math.log(share_E.shape[-1])


def imbalance_loss(
    measure: Callable[[Tensor], Tensor],
    *,
    score_TE: Tensor,
    counts_E: Tensor,
    tokens: int | Tensor,
    mask_T: Tensor | None = None,
) -> Tensor:
    """`measure` of the load `counts_E`, with its gradient on the mean of normalised scores; 0 if nothing counts.

    `counts_E` and `tokens` describe the batch to balance; `score_TE` may be a part of it.
    """
    share_E = counts_E.to(score_TE.dtype) / counts_E.sum().clamp(min=1)
    probability_E = mean_probability(score_TE, tokens, mask_T)
    value = measure(share_E + (probability_E - probability_E.detach()))
    part = torch.as_tensor(counted(score_TE, mask_T), dtype=score_TE.dtype) / at_least_one(tokens)
    return value - (1 - part) * value.detach()


class ImbalanceLoss:
    """`imbalance_loss` of one measure over the whole batch of an optimizer step, like `losses.GlobalLoss`."""

    def __init__(self, measure: Callable[[Tensor], Tensor], weight: float, counts: CountsFrom) -> None:
        self.measure = measure
        self.weight = weight
        self.scope = counts

    def __call__(self, routing: Routing, mask_T: Tensor | None = None, *, batch: BatchLoad | None = None) -> Tensor:
        batch = batch or batch_of(routing, mask_T)
        return imbalance_loss(
            self.measure,
            score_TE=routing.score_TE,
            counts_E=batch.counts_E,
            tokens=batch.tokens,
            mask_T=mask_T,
        )


def gini_loss(weight: float = 0.01, counts: CountsFrom = "counts-first") -> ImbalanceLoss:
    """The Gini coefficient: its pull depends on an expert's rank, not on its distance from the mean."""
    return ImbalanceLoss(gini, weight, counts)


def variance_loss(weight: float = 0.01, counts: CountsFrom = "counts-first") -> ImbalanceLoss:
    """The squared coefficient of variation: its gradient is twice that of `GlobalLoss`, its value 0 when even."""
    return ImbalanceLoss(variance, weight, counts)


def variation_loss(weight: float = 0.01, counts: CountsFrom = "counts-first") -> ImbalanceLoss:
    """The coefficient of variation: pulls as hard near balance as far from it."""
    return ImbalanceLoss(variation, weight, counts)


def entropy_loss(weight: float = 0.01, counts: CountsFrom = "counts-first") -> ImbalanceLoss:
    """The missing entropy: pulls hardest at experts that are nearly dead."""
    return ImbalanceLoss(entropy_gap, weight, counts)
