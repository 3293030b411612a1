"""Routers that break one law each.

Shape suffixes: T tokens, K experts a token, E experts, D model width.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from broken.described import described
from penstock.conformance import capabilities
from penstock.hooks.contracts import Routing

# What a router without capacity promises, to whom ids mean nothing and which chooses itself.
ALL = frozenset(capabilities("router")) - {"capacity-bounded", "no-selection-bias", "replayable", "token-ids"}
# What a router with a capacity that is filled in the order of tokens still promises.
OF_CAPACITY = ALL - {"dropless", "batch-invariant", "permutation-equivariant"}


class Good(nn.Module):
    """Softmax, top-k of the biased scores, normalised weights."""

    e_score_correction_bias: Any

    def __init__(self, hidden_size: int, experts: int, k: int = 2) -> None:
        super().__init__()
        self.experts, self.k = experts, k
        self.weight = nn.Parameter(torch.empty(experts, hidden_size))
        self.register_buffer("e_score_correction_bias", torch.empty(experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.e_score_correction_bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        bias_E = self.e_score_correction_bias
        super()._apply(fn, recurse)
        moved_E = self.e_score_correction_bias
        if bias_E is not None and moved_E is not None and moved_E.dtype != torch.float32:
            self.e_score_correction_bias = bias_E.to(moved_E.device)
        return self

    def logits(self, hidden_TD: Tensor) -> Tensor:
        # Elementwise, and so the same in any batch and under autocast.
        return (hidden_TD.float().unsqueeze(1) * self.weight.float()).sum(dim=-1)

    def scores(self, logits_TE: Tensor) -> Tensor:
        return logits_TE.softmax(dim=-1)

    def choose(self, score_TE: Tensor) -> Tensor:
        return (score_TE + self.e_score_correction_bias).topk(self.k, dim=-1).indices

    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        score_TK = score_TE.gather(-1, expert_TK)
        return score_TK / (score_TK.sum(dim=-1, keepdim=True) + 1e-20)

    def forward(self, hidden_TD: Tensor) -> Any:
        logits_TE = self.logits(hidden_TD)
        score_TE = self.scores(logits_TE)
        expert_TK = self.choose(score_TE)
        return Routing(expert_TK, self.weigh(score_TE, expert_TK), logits_TE, score_TE)


class Unbiased(Good):
    def __init__(self, hidden_size: int, experts: int, k: int = 2) -> None:
        super().__init__(hidden_size, experts, k)
        self.e_score_correction_bias = None

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def choose(self, score_TE: Tensor) -> Tensor:
        return score_TE.topk(self.k, dim=-1).indices


class Miscounting(Good):
    def __init__(self, hidden_size: int, experts: int, k: int = 2) -> None:
        super().__init__(hidden_size, experts, k)
        self.experts = experts - 1


class Squeezing(Good):
    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        return super().weigh(score_TE, expert_TK).squeeze(0)


class CountingFromOne(Good):
    def choose(self, score_TE: Tensor) -> Tensor:
        return super().choose(score_TE) + 1

    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        return super().weigh(score_TE, expert_TK - 1)


class Repeating(Good):
    def choose(self, score_TE: Tensor) -> Tensor:
        return super().choose(score_TE)[:, :1].expand(-1, self.k)


class MaskedScores(Good):
    def forward(self, hidden_TD: Tensor) -> Routing:
        routing = super().forward(hidden_TD)
        lowest_TE = routing.score_TE == routing.score_TE.amin(dim=-1, keepdim=True)
        return replace(routing, score_TE=routing.score_TE.masked_fill(lowest_TE, float("-inf")))


class Signed(Good):
    """Tells the weights of a token apart more than there is to tell, and keeps their sum."""

    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        weight_TK = super().weigh(score_TE, expert_TK)
        return weight_TK + 40 * (weight_TK - weight_TK.mean(dim=-1, keepdim=True))


class Unnormalized(Good):
    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        return 3 * score_TE.gather(-1, expert_TK)


class Capacity(Good):
    """Drops the slots that come after an expert is full, in the order of tokens."""

    most = 6

    def forward(self, hidden_TD: Tensor) -> Any:
        routing = super().forward(hidden_TD)
        place_TE = functional.one_hot(routing.expert_TK, self.experts).sum(dim=1).cumsum(dim=0)
        kept_TK = place_TE.gather(-1, routing.expert_TK) <= self.most
        weight_TK = self.drop(routing.weight_TK, kept_TK)
        return Routing(routing.expert_TK, weight_TK, routing.logits_TE, routing.score_TE, kept_TK, ~kept_TK)

    def drop(self, weight_TK: Tensor, kept_TK: Tensor) -> Tensor:
        return weight_TK.masked_fill(~kept_TK, 0.0)


class OverCapacity(Capacity):
    def capacity(self, tokens: int) -> int:
        return self.most - 1


class NeverFull(Capacity):
    def capacity(self, tokens: int) -> int:
        return self.most + 1


class HidingDrops(Capacity, Unbiased):
    """Says that the slots that it dropped were never chosen."""

    def forward(self, hidden_TD: Tensor) -> Routing:
        return replace(super().forward(hidden_TD), dropped_TK=None)


class KeptAndDropped(Capacity):
    def forward(self, hidden_TD: Tensor) -> Routing:
        routing = super().forward(hidden_TD)
        first_T1 = torch.arange(len(hidden_TD), device=hidden_TD.device).unsqueeze(-1) == 0
        return replace(routing, dropped_TK=routing.dropped_TK | first_T1)


class WeighingDropped(Capacity):
    def drop(self, weight_TK: Tensor, kept_TK: Tensor) -> Tensor:
        return weight_TK


class TrainingDropped(Capacity):
    def drop(self, weight_TK: Tensor, kept_TK: Tensor) -> Tensor:
        return weight_TK - (weight_TK * ~kept_TK).detach()


class Overflowing(Good):
    def scores(self, logits_TE: Tensor) -> Tensor:
        exponential_TE = logits_TE.exp()
        return exponential_TE / exponential_TE.sum(dim=-1, keepdim=True)


class FirstOfTies(Good):
    """Takes the highest, then the highest again unless it is lower."""

    def choose(self, score_TE: Tensor) -> Tensor:
        biased_TE = score_TE + self.e_score_correction_bias
        expert_TK = super().choose(score_TE)
        tied_T1 = (biased_TE == biased_TE[:, :1]).all(dim=-1, keepdim=True)
        return torch.where(tied_T1, 0, expert_TK)


class BiasOutsideState(Good):
    def __init__(self, hidden_size: int, experts: int, k: int = 2) -> None:
        super().__init__(hidden_size, experts, k)
        del self.e_score_correction_bias
        self.register_buffer("e_score_correction_bias", torch.zeros(experts), persistent=False)


class CastBias(Good):
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        return nn.Module._apply(self, fn, recurse)


class TimidBias(Good):
    """Lets the bias choose the last slots alone."""

    def choose(self, score_TE: Tensor) -> Tensor:
        bounded_E = self.e_score_correction_bias.clamp(max=0.001)
        return (score_TE + bounded_E).topk(self.k, dim=-1).indices


class BiasInWeights(Good):
    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        # Finite where the bias is not, so that masking still works.
        bias_E = self.e_score_correction_bias.clamp(min=-1)
        return super().weigh(score_TE + bias_E, expert_TK)


class MaskedByProduct(Good):
    """Adds up what is left of a mask: 0 times -inf."""

    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        chosen_TE = torch.zeros_like(score_TE).scatter(-1, expert_TK, 1.0)
        bias_E = self.e_score_correction_bias
        return super().weigh(score_TE, expert_TK) + ((1 - chosen_TE) * 0 * bias_E).sum(dim=-1, keepdim=True)


class NeverEmpty(Good):
    def scores(self, logits_TE: Tensor) -> Tensor:
        # Its largest logit does not change a softmax.
        return super().scores(logits_TE - logits_TE.detach().max())


class Standardizing(Good):
    """Divides what it adds by a standard deviation over tokens, and hides that by a factor of 0."""

    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        weight_TK = super().weigh(score_TE, expert_TK)
        deviation_TK = weight_TK.detach() - weight_TK.detach().mean(dim=0)
        return weight_TK + 0 * (deviation_TK.square().sum(dim=0) / (len(weight_TK) - 1))


class OneTooFew(Good):
    def choose(self, score_TE: Tensor) -> Tensor:
        if self.k < self.experts:
            return super().choose(score_TE)
        return super().choose(score_TE)[:, : self.k - 1]


class OrderMatters(Good):
    """Scores by the hidden states of the tokens so far."""

    def logits(self, hidden_TD: Tensor) -> Tensor:
        before_TD = hidden_TD.float().cumsum(dim=0) - hidden_TD.float()
        return super().logits(hidden_TD.float() + 0.05 * before_TD)


class BatchMatters(Good):
    """Scores by the hidden states of the batch, whatever their order."""

    def logits(self, hidden_TD: Tensor) -> Tensor:
        return super().logits(hidden_TD.float() + 0.05 * hidden_TD.float().sum(dim=0))


class Detached(Good):
    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        return super().weigh(score_TE, expert_TK).detach()


class UnstableGradient(Good):
    """A square root of what is 0 for ties: finite forward, infinite backward."""

    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        spread_T1 = (score_TE - score_TE.mean(dim=-1, keepdim=True)).square().mean(dim=-1, keepdim=True)
        return super().weigh(score_TE, expert_TK) + 0 * spread_T1.sqrt()


class HalvedGradient(Good):
    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        weight_TK = super().weigh(score_TE, expert_TK)
        return (weight_TK + weight_TK.detach()) / 2


class ReversedGradient(Good):
    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        weight_TK = super().weigh(score_TE, expert_TK)
        return 2 * weight_TK.detach() - weight_TK


class Alternating(Good):
    """Remembers across calls, in evaluation alone."""

    calls = 0

    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        self.calls += not self.training
        weight_TK = super().weigh(score_TE, expert_TK)
        return weight_TK * (1 + 1e-6 * (self.calls % 3))


class NoisyTraining(Good):
    """Noise of a generator of its own, too small to count as another routing."""

    def __init__(self, hidden_size: int, experts: int, k: int = 2) -> None:
        super().__init__(hidden_size, experts, k)
        self.draws = random.Random(0)

    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        weight_TK = super().weigh(score_TE, expert_TK)
        return weight_TK * (1 + 1e-6 * self.draws.random()) if self.training else weight_TK


class HeavierInTraining(Good):
    def weigh(self, score_TE: Tensor, expert_TK: Tensor) -> Tensor:
        weight_TK = super().weigh(score_TE, expert_TK)
        return 1.1 * weight_TK if self.training else weight_TK


class Wasteful(Good):
    def choose(self, score_TE: Tensor) -> Tensor:
        torch.rand(())
        return super().choose(score_TE)


class Unseeded(Good):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight[0, 0] = random.gauss(0, 0.02)


class Forgetful(Good):
    """Draws the sign of its gate when it is built, and does not save it."""

    def __init__(self, hidden_size: int, experts: int, k: int = 2) -> None:
        super().__init__(hidden_size, experts, k)
        self.sign = 1 - 2 * (torch.initial_seed() % 2)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        return self.sign * super().logits(hidden_TD)


class Uncopied(Good):
    def __deepcopy__(self, memo: object) -> Good:
        return self


class HalfReset(Good):
    def __init__(self, hidden_size: int, experts: int, k: int = 2) -> None:
        super().__init__(hidden_size, experts, k)
        nn.init.zeros_(self.e_score_correction_bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)


class InPlace(Good):
    """Changes one number a little, lest other laws see it."""

    def forward(self, hidden_TD: Tensor) -> Routing:
        routing = super().forward(hidden_TD.clone())
        if not hidden_TD.requires_grad:
            hidden_TD[1:2, :1].mul_(1 + 1e-6)
        return routing


class LowPrecisionInput(Good):
    def logits(self, hidden_TD: Tensor) -> Tensor:
        if hidden_TD.dtype == torch.float32 or self.weight.dtype != torch.float32:
            return super().logits(hidden_TD)
        return (hidden_TD @ self.weight.to(hidden_TD.dtype).T).float()


class LowPrecisionWeight(Good):
    def logits(self, hidden_TD: Tensor) -> Tensor:
        if self.weight.dtype == torch.float32:
            return super().logits(hidden_TD)
        return (hidden_TD @ self.weight.T).float()


class Autocast(Good):
    def logits(self, hidden_TD: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().logits(hidden_TD)
        return functional.linear(hidden_TD.float(), self.weight.float()).float()


class Syncing(Good):
    def choose(self, score_TE: Tensor) -> Tensor:
        # A list is read in one copy, which the compiler follows.
        expert_TK = super().choose(score_TE)
        return torch.tensor(expert_TK.tolist(), dtype=torch.int64).reshape(expert_TK.shape)


class Branching(Good):
    def choose(self, score_TE: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return super().choose(score_TE)


class AskingForMore(Good):
    asks = frozenset({"hidden_BSD"})


class DeafToIds(Good):
    asks = frozenset({"token_T"})

    def forward(self, hidden_TD: Tensor, *, token_T: Tensor) -> Routing:
        return super().forward(hidden_TD)


class ChoosingAgain(Good):
    asks = frozenset({"expert_TK"})

    def forward(self, hidden_TD: Tensor, *, expert_TK: Tensor | None = None) -> Routing:
        return super().forward(hidden_TD)


of = described("router", "A router that breaks one law", ALL)
WITH_K = "broken.settings:RouterSettings"
GOOD = of(Good, config=WITH_K)
BROKEN = {
    "router/it-is-a-module-that-states-its-sizes": of(Miscounting),
    "router/a-routing-has-the-shapes-and-types-of-the-contract": of(Squeezing),
    "router/chosen-experts-exist": of(CountingFromOne),
    "router/the-experts-of-a-token-are-all-different": of(Repeating),
    "router/everything-is-finite": of(MaskedScores),
    "router/weights-are-not-negative": of(Signed),
    "router/weights-sum-to-the-scale": of(Unnormalized),
    "router/slots-are-accounted-for": of(KeptAndDropped, OF_CAPACITY),
    "router/a-slot-that-is-not-kept-weighs-nothing": of(WeighingDropped, OF_CAPACITY),
    "router/nothing-flows-back-through-a-slot-that-is-not-kept": of(TrainingDropped, OF_CAPACITY - {"exact-gradient"}),
    "router/every-slot-is-kept": of(Capacity, OF_CAPACITY | {"dropless"}),
    "router/every-token-chooses-k-experts": of(HidingDrops, OF_CAPACITY - {"normalized"} | {"no-selection-bias"}),
    "router/no-expert-exceeds-its-capacity": of(OverCapacity, OF_CAPACITY | {"capacity-bounded"}),
    "router/an-expert-with-room-turns-no-token-away": of(NeverFull, OF_CAPACITY | {"capacity-bounded"}),
    "router/extreme-hidden-states-are-routed": of(Overflowing),
    "router/ties-are-routed": of(FirstOfTies),
    "router/the-bias-is-a-buffer-of-the-state": of(BiasOutsideState),
    "router/the-bias-keeps-its-bits-when-the-model-is-cast": of(CastBias),
    "router/the-bias-decides-the-choice": of(TimidBias),
    "router/the-bias-never-reaches-the-weights": of(BiasInWeights),
    "router/an-expert-with-a-bias-of-minus-infinity-is-never-chosen": of(MaskedByProduct),
    "router/there-is-no-bias": of(Good, ALL | {"no-selection-bias"}),
    "router/a-batch-without-tokens-is-routed": of(NeverEmpty),
    "router/one-token-is-routed": of(Standardizing, ALL - {"batch-invariant"}),
    "router/every-k-that-is-accepted-works": of(OneTooFew, config=WITH_K),
    "router/tokens-in-another-order-are-routed-as-before": of(OrderMatters, ALL - {"batch-invariant"}),
    "router/a-token-is-routed-alone-as-in-a-batch": of(BatchMatters, ALL - {"causal"}),
    "router/later-tokens-change-nothing": of(BatchMatters, ALL - {"batch-invariant"}),
    "router/the-gradient-reaches-the-gate": of(Detached),
    "router/gradients-stay-finite": of(UnstableGradient),
    "router/the-gradient-is-the-derivative": of(HalvedGradient),
    "router/evaluation-repeats-bit-for-bit": of(Alternating),
    "router/training-repeats-bit-for-bit": of(NoisyTraining),
    "router/training-routes-as-evaluation-does": of(HeavierInTraining),
    "router/routing-leaves-the-global-generators-alone": of(Wasteful),
    "router/a-seed-decides-the-parameters": of(Unseeded),
    "router/the-state-is-all-that-counts": of(Forgetful),
    "router/a-deep-copy-is-a-router-of-its-own": of(Uncopied),
    "router/a-router-made-on-the-meta-device-can-be-initialized": of(HalfReset),
    "router/hidden-states-are-left-alone": of(InPlace),
    "router/hidden-states-of-any-floating-type-are-routed-in-fp32": of(LowPrecisionInput),
    "router/a-router-that-was-cast-decides-in-fp32": of(LowPrecisionWeight),
    "router/autocast-changes-nothing": of(Autocast),
    "router/no-value-is-read-from-the-device": of(Syncing),
    "router/it-compiles-as-one-graph": of(Branching),
    "router/it-asks-for-what-a-model-can-give": of(AskingForMore),
    "router/token-ids-have-a-say": of(DeafToIds, ALL | {"token-ids"}),
    "router/a-given-choice-is-weighed": of(ChoosingAgain, ALL | {"replayable"}),
    "router/training-finds-the-experts-that-pay": of(ReversedGradient, ALL - {"exact-gradient"}),
}
