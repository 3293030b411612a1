"""Quantile balancing: the bias that would have given an even load, computed from the margins of the step.

Shape suffixes: T tokens, K experts per token, E experts, N edges between bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.hooks.contracts import Router, Routing
from penstock.routers.balancers import bias_of

# Histograms add up over micro-batches and ranks. Bins are narrow at small margins, where the quantile of a balanced
# router lies: 1e-5 wide at 0, 2 % of the margin further out.
_BINS, _FINEST, _WIDEST = 1024, 5e-4, 8.0


class Quantile:
    """bias_e -= the (1 - k/E) quantile of expert e's margins (dual coordinate descent for the balanced assignment, as
    in Megatron-Core and Kimi K3). It has no rate.

    The margin of a token is its biased score for e minus the highest biased score that it did not choose; the token
    chooses e if the margin is above 0. With the quantile subtracted, k/E of the tokens would have chosen e. All experts
    move at once, so a step is not exact, but its fixed point is an even load. Quantiles ignore node-limited groups,
    although these change the choice.
    """

    def statistic(self, router: Router, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        """int64 [E, bins], a histogram of the margins of each expert."""
        bias_E = bias_of(router, "quantile")
        biased_TE = routing.score_TE.detach() + bias_E
        if router.k >= router.experts:  # every token chooses every expert: nothing to move
            biased_TE = biased_TE[:0]
            mask_T = None
        if mask_T is not None:
            biased_TE = biased_TE[mask_T]
        threshold_T1 = biased_TE.topk(min(router.k + 1, router.experts), dim=-1).values[:, -1:]
        bin_TE = torch.bucketize((biased_TE - threshold_T1).contiguous(), _edges(biased_TE.device))
        flat = bin_TE + torch.arange(router.experts, device=bin_TE.device) * _BINS
        return flat.flatten().bincount(minlength=router.experts * _BINS).view(router.experts, _BINS)

    def update(self, router: Router, counts_E: Tensor, *, tokens_seen: int, statistic: Tensor | None = None) -> None:
        """Moves the router's bias in place; a step without tokens leaves it unchanged. Raises `ProblemError` for a
        router without a bias, ValueError without the statistic or for counts of a different number of experts."""
        bias_E = bias_of(router, "quantile")
        if counts_E.shape != bias_E.shape:
            raise ValueError(f"counts of shape {tuple(counts_E.shape)} for a router of {bias_E.shape[0]} experts")
        if statistic is None:
            raise ValueError("the quantile balancer needs the sum of its statistic over the step")
        tokens = statistic[0].sum()
        delta_E = quantile_of(statistic, 1 - router.k / router.experts).to(bias_E)
        bias_E.sub_(torch.where(tokens > 0, delta_E - delta_E.mean(), 0.0))


def quantile_of(histogram_EN: Tensor, share: float) -> Tensor:
    """fp64 [E], the value below which `share` of each row lies, linear within its bin."""
    edges = _edges(histogram_EN.device)
    low, high = torch.cat((edges[:1], edges)), torch.cat((edges, edges[-1:]))
    below_EN = histogram_EN.cumsum(dim=-1)
    rank_E1 = share * below_EN[:, -1:].double()
    bin_E1 = (below_EN.double() < rank_E1).sum(dim=-1, keepdim=True).clamp(max=_BINS - 1)
    inside_E1 = histogram_EN.gather(-1, bin_E1).clamp(min=1)
    before_E1 = below_EN.gather(-1, bin_E1) - histogram_EN.gather(-1, bin_E1)
    fraction_E1 = ((rank_E1 - before_E1) / inside_E1).clamp(0, 1)
    return (low[bin_E1] + fraction_E1 * (high[bin_E1] - low[bin_E1])).squeeze(-1)


def _edges(device: torch.device) -> Tensor:
    """The edges between bins, fp32 [bins - 1], evenly spaced in asinh."""
    limit = torch.asinh(torch.tensor(_WIDEST / _FINEST, dtype=torch.float64)).item()
    return (torch.linspace(-limit, limit, _BINS - 1, dtype=torch.float64).sinh() * _FINEST).float().to(device)
