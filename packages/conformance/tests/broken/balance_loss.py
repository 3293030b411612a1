"""Balancing losses that break one law each.

Shape suffixes: T tokens, K slots a token, E experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from broken.described import described
from penstock.conformance import capabilities
from penstock.hooks.contracts import Routing

# What a load-balancing loss can promise.
ALL = frozenset(capabilities("balance-loss")) - {"additive", "logit-regularizing"}


class Good:
    """E * sum of share of the choices times mean score."""

    def __init__(self, weight: float = 0.01) -> None:
        self.weight = weight

    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Any:
        score_TE = routing.score_TE
        counted_T = score_TE.new_ones(len(score_TE)) if mask_T is None else mask_T.to(score_TE.dtype)
        load_E = self.chosen(routing, counted_T).sum(dim=0)
        mean_E = self.mean(self.probability(routing), counted_T)
        return score_TE.shape[-1] * self.product(load_E / load_E.sum().clamp(min=1), mean_E)

    def chosen(self, routing: Routing, counted_T: Tensor) -> Tensor:
        slots_TK = self.slots(routing) * counted_T.unsqueeze(-1)
        return torch.zeros_like(routing.score_TE).scatter_add(-1, routing.expert_TK, slots_TK)

    def slots(self, routing: Routing) -> Tensor:
        used_TK = torch.ones_like(routing.expert_TK, dtype=torch.bool) if routing.kept_TK is None else routing.kept_TK
        used_TK = used_TK if routing.dropped_TK is None else used_TK | routing.dropped_TK
        return used_TK.to(routing.score_TE.dtype)

    def probability(self, routing: Routing) -> Tensor:
        return routing.score_TE

    def mean(self, probability_TE: Tensor, counted_T: Tensor) -> Tensor:
        return (probability_TE * counted_T.unsqueeze(-1)).sum(dim=0) / counted_T.sum().clamp(min=1)

    def product(self, share_E: Tensor, mean_E: Tensor) -> Tensor:
        return (share_E * mean_E).sum()


class Negative(Good):
    def __init__(self) -> None:
        super().__init__(-0.01)


class OneElement(Good):
    def product(self, share_E: Tensor, mean_E: Tensor) -> Tensor:
        return super().product(share_E, mean_E).reshape(1)


class Overflowing(Good):
    def probability(self, routing: Routing) -> Tensor:
        return routing.score_TE + 0 * routing.logits_TE.exp()


class WeighedTwice(Good):
    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        return self.weight * super().__call__(routing, mask_T)


class Remembering(Good):
    """Carries a little from call to call, too little for other laws to see."""

    calls = 0

    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().__call__(routing, mask_T) * (1 + 1e-6 * (self.calls % 3))


class InPlace(Good):
    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        routing.weight_TK.detach().zero_()
        return super().__call__(routing, mask_T)


class Wasteful(Good):
    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        torch.rand(())
        return super().__call__(routing, mask_T)


class Unpicklable(Good):
    def __init__(self) -> None:
        super().__init__()
        self.factor = lambda: 1.0


class HeavierUnmasked(Good):
    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        loss = super().__call__(routing, mask_T)
        return 1.01 * loss if mask_T is None else loss


class CountingPadding(Good):
    def chosen(self, routing: Routing, counted_T: Tensor) -> Tensor:
        return super().chosen(routing, torch.ones_like(counted_T))


class TrainingPadding(Good):
    def mean(self, probability_TE: Tensor, counted_T: Tensor) -> Tensor:
        straight_TE = probability_TE - probability_TE.detach()
        return super().mean(probability_TE, counted_T) + (straight_TE * (1 - counted_T).unsqueeze(-1)).sum(dim=0)


class DividingByNone(Good):
    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        loss = super().__call__(routing, mask_T)
        return loss if mask_T is None else loss * mask_T.sum() / mask_T.sum()


class NeverEmpty(Good):
    def probability(self, routing: Routing) -> Tensor:
        return routing.score_TE + 0 * routing.score_TE.detach().max()


class CountingEmpty(Good):
    def slots(self, routing: Routing) -> Tensor:
        return torch.ones_like(routing.weight_TK, dtype=routing.score_TE.dtype)


class CountingKept(Good):
    def slots(self, routing: Routing) -> Tensor:
        return super().slots(replace(routing, dropped_TK=None))


class Detached(Good):
    def probability(self, routing: Routing) -> Tensor:
        return routing.score_TE.detach()


class UnstableGradient(Good):
    """A root of what is 0 for ties: finite forward, infinite backward."""

    def probability(self, routing: Routing) -> Tensor:
        away_TE = routing.logits_TE - routing.logits_TE.mean(dim=-1, keepdim=True)
        return routing.score_TE + 0 * away_TE.square().mean(dim=-1, keepdim=True).sqrt()


class HalvedGradient(Good):
    def probability(self, routing: Routing) -> Tensor:
        return (routing.score_TE + routing.score_TE.detach()) / 2


class ReversedGradient(Good):
    def probability(self, routing: Routing) -> Tensor:
        return 2 * routing.score_TE.detach() - routing.score_TE


class SinglePrecision(Good):
    def probability(self, routing: Routing) -> Tensor:
        return routing.score_TE.float().to(routing.score_TE.dtype)


class Crowding(Good):
    """1 at balance like the others, and less away from it."""

    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        loss = super().__call__(routing, mask_T)
        return loss * (2 - loss)


class ChoosingAgain(Good):
    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor:
        chosen_TK = routing.score_TE.topk(routing.expert_TK.shape[-1], dim=-1).indices
        return super().__call__(replace(routing, expert_TK=chosen_TK, kept_TK=None, dropped_TK=None), mask_T)


class Doubled(Good):
    def product(self, share_E: Tensor, mean_E: Tensor) -> Tensor:
        return 2 * super().product(share_E, mean_E)


class Summing(Good):
    def mean(self, probability_TE: Tensor, counted_T: Tensor) -> Tensor:
        return super().mean(probability_TE, counted_T) * counted_T.sum()


class PlayingFavourites(Good):
    """Experts of higher numbers cost more, and all of them together as much as before."""

    def product(self, share_E: Tensor, mean_E: Tensor) -> Tensor:
        rank_E = torch.arange(len(share_E), device=share_E.device) - (len(share_E) - 1) / 2
        return super().product(share_E * (1 + 0.1 * rank_E / len(share_E)), mean_E)


class Impatient(Good):
    """Counted tokens weigh by their place among the counted."""

    def mean(self, probability_TE: Tensor, counted_T: Tensor) -> Tensor:
        return super().mean(probability_TE, counted_T * (1 + 0.5 * torch.cos(counted_T.cumsum(dim=0))))


class Autocast(Good):
    def product(self, share_E: Tensor, mean_E: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().product(share_E, mean_E)
        return (share_E.unsqueeze(0) @ mean_E.unsqueeze(1)).squeeze().to(mean_E.dtype)


class Syncing(Good):
    def chosen(self, routing: Routing, counted_T: Tensor) -> Tensor:
        # A list is read in one copy, which the compiler follows.
        expert_TK = torch.tensor(routing.expert_TK.tolist(), dtype=torch.int64).reshape(routing.expert_TK.shape)
        return super().chosen(replace(routing, expert_TK=expert_TK), counted_T)


class Branching(Good):
    def slots(self, routing: Routing) -> Tensor:
        torch._dynamo.graph_break()
        return super().slots(routing)


of = described("balance-loss", "A balancing loss that breaks one law", ALL)
WITH_WEIGHT = "broken.settings:LossSettings"
GOOD = of(Good, config=WITH_WEIGHT)
BROKEN = {
    "balance-loss/the-weight-is-that-of-the-settings": of(Negative),
    "balance-loss/a-loss-is-one-finite-number": of(OneElement),
    "balance-loss/extreme-logits-have-a-finite-loss": of(Overflowing),
    "balance-loss/the-weight-is-left-to-the-training-loop": of(
        WeighedTwice, ALL - {"one-at-balance"}, config=WITH_WEIGHT
    ),
    "balance-loss/asked-again-a-loss-is-the-same": of(Remembering, ALL - {"exact-in-fp64"}),
    "balance-loss/the-routing-is-left-alone": of(InPlace),
    "balance-loss/the-global-generators-are-left-alone": of(Wasteful),
    "balance-loss/a-copy-is-the-same-loss": of(Unpicklable),
    "balance-loss/a-mask-of-all-tokens-is-no-mask": of(HeavierUnmasked, ALL - {"one-at-balance"}),
    "balance-loss/padding-costs-nothing": of(CountingPadding),
    "balance-loss/nothing-flows-back-to-padding": of(TrainingPadding),
    "balance-loss/a-batch-of-padding-costs-nothing": of(DividingByNone),
    "balance-loss/a-batch-without-tokens-costs-nothing": of(NeverEmpty),
    "balance-loss/empty-slots-cost-nothing": of(CountingEmpty),
    "balance-loss/the-gradient-reaches-the-logits": of(Detached),
    "balance-loss/gradients-stay-finite": of(UnstableGradient),
    "balance-loss/the-gradient-is-the-derivative": of(HalvedGradient),
    "balance-loss/fp64-routings-are-computed-in-fp64": of(SinglePrecision),
    "balance-loss/crowding-costs-more": of(Crowding),
    "balance-loss/the-gradient-draws-tokens-away-from-crowded-experts": of(ReversedGradient, ALL - {"exact-gradient"}),
    "balance-loss/the-choice-that-was-made-counts": of(ChoosingAgain),
    "balance-loss/choices-that-were-turned-away-count": of(CountingKept),
    "balance-loss/larger-logits-cost-more": of(Good, ALL | {"logit-regularizing"}),
    "balance-loss/an-even-load-costs-one": of(Doubled),
    "balance-loss/a-batch-that-is-there-twice-costs-the-same": of(Summing, ALL - {"one-at-balance"}),
    "balance-loss/the-parts-of-a-batch-add-up": of(Good, ALL | {"additive"}),
    "balance-loss/experts-under-other-numbers-cost-the-same": of(PlayingFavourites),
    "balance-loss/tokens-in-another-order-cost-the-same": of(Impatient, ALL - {"mean-over-tokens"}),
    "balance-loss/autocast-changes-nothing": of(Autocast),
    "balance-loss/no-value-is-read-from-the-device": of(Syncing),
    "balance-loss/it-compiles-as-one-graph": of(Branching),
}
