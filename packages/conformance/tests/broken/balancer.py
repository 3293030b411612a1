"""Balancers that break one law each. Shape suffix: E experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from broken.described import described
from penstock.conformance import capabilities
from penstock.hooks.problems import Problem, ProblemError

ALL = frozenset(capabilities("balancer"))


class Good:
    """Moves the bias by the sign of the difference to the mean load."""

    rate = 0.002

    def update(self, router: Any, counts_E: Tensor, *, tokens_seen: int) -> None:
        bias_E = router.e_score_correction_bias
        if bias_E is None:
            raise ProblemError(Problem("router-without-bias", "no bias", "balancer 'broken'", "use another router"))
        if self.misfits(counts_E, bias_E):
            raise ValueError("counts of another number of experts")
        self.apply(router, self.rate * self.direction(counts_E))

    def misfits(self, counts_E: Tensor, bias_E: Tensor) -> bool:
        return counts_E.shape != bias_E.shape

    def direction(self, counts_E: Tensor) -> Tensor:
        return (counts_E.sum() - counts_E * len(counts_E)).sign().float()

    def apply(self, router: Any, step_E: Tensor) -> None:
        router.e_score_correction_bias.add_(step_E)


class DoublePrecision(Good):
    def apply(self, router: Any, step_E: Tensor) -> None:
        router.e_score_correction_bias = router.e_score_correction_bias.double() + step_E


class DividingByOthers(Good):
    """By the load of all experts but one, which is 0 where that one has all of it."""

    def direction(self, counts_E: Tensor) -> Tensor:
        others = counts_E.sum() - counts_E.max()
        return super().direction(counts_E) * (others / others if bool(counts_E.any()) else 1)


class Replacing(Good):
    def apply(self, router: Any, step_E: Tensor) -> None:
        router.e_score_correction_bias = router.e_score_correction_bias + step_E


class Training(Good):
    def apply(self, router: Any, step_E: Tensor) -> None:
        super().apply(router, step_E)
        if bool(step_E.any()) and router.weight.grad is not None:
            router.weight.grad.zero_()


class Growing(Good):
    """Lets the bias need a gradient."""

    def apply(self, router: Any, step_E: Tensor) -> None:
        super().apply(router, step_E)
        router.e_score_correction_bias.requires_grad_()

    def update(self, router: Any, counts_E: Tensor, *, tokens_seen: int) -> None:
        with torch.no_grad():
            super().update(router, counts_E, tokens_seen=tokens_seen)


class Consuming(Good):
    def direction(self, counts_E: Tensor) -> Tensor:
        direction_E = super().direction(counts_E)
        counts_E.zero_()
        return direction_E


class NeverAtRest(Good):
    """Takes a load at the mean for one above it; but where there is none, it rests."""

    def direction(self, counts_E: Tensor) -> Tensor:
        direction_E = super().direction(counts_E)
        return torch.where((direction_E == 0) & (counts_E > 0) & (counts_E < 2**20), -1.0, direction_E)


class NothingOfNothing(Good):
    def direction(self, counts_E: Tensor) -> Tensor:
        return super().direction(counts_E) * counts_E.sum() / counts_E.sum()


class Crowding(Good):
    def direction(self, counts_E: Tensor) -> Tensor:
        return -super().direction(counts_E)


class Overshooting(Good):
    rate = 100.0


class Drifting(Good):
    """Another rate for every object."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.rate = 0.002 + 1e-6 * type(self).made


class Wasteful(Good):
    def direction(self, counts_E: Tensor) -> Tensor:
        torch.rand(())
        return super().direction(counts_E)


class CountingCalls(Good):
    """Slows down by the calls for one router; a new object begins anew."""

    def update(self, router: Any, counts_E: Tensor, *, tokens_seen: int) -> None:
        if router.e_score_correction_bias is not None:
            self.calls = {**getattr(self, "calls", {}), id(router): getattr(self, "calls", {}).get(id(router), 0) + 1}
            self.rate = 0.002 / (1 + 0.001 * self.calls[id(router)])
        super().update(router, counts_E, tokens_seen=tokens_seen)


class OncePerStep(Good):
    """Takes the second layer of a step for a repetition of the first."""

    last = -1

    def update(self, router: Any, counts_E: Tensor, *, tokens_seen: int) -> None:
        if tokens_seen != self.last:
            super().update(router, counts_E, tokens_seen=tokens_seen)
        self.last = tokens_seen


class Unpicklable(Good):
    def __init__(self) -> None:
        self.factor = lambda: 1.0


class LowPrecision(Good):
    def apply(self, router: Any, step_E: Tensor) -> None:
        bias_E = router.e_score_correction_bias
        bias_E.copy_((bias_E.to(router.weight.dtype) + step_E.to(router.weight.dtype)).float())


class Centring(Good):
    """Takes the mean of the biases away, times 0."""

    def apply(self, router: Any, step_E: Tensor) -> None:
        super().apply(router, step_E - 0 * router.e_score_correction_bias.mean())


class Silent(Good):
    def update(self, router: Any, counts_E: Tensor, *, tokens_seen: int) -> None:
        if router.e_score_correction_bias is not None:
            super().update(router, counts_E, tokens_seen=tokens_seen)


class Broadcasting(Good):
    def misfits(self, counts_E: Tensor, bias_E: Tensor) -> bool:
        return len(counts_E) not in (1, len(bias_E))


class PlayingFavourites(Good):
    def direction(self, counts_E: Tensor) -> Tensor:
        direction_E = super().direction(counts_E)
        return direction_E * (1 + 0.01 * torch.arange(len(direction_E)))


class ByLoad(Good):
    """Moves by the difference and not by its sign, up to a bound."""

    rate = 1e-5

    def direction(self, counts_E: Tensor) -> Tensor:
        return (counts_E.double().mean() - counts_E).clamp(-100, 100).float()


class Rounding(Good):
    def direction(self, counts_E: Tensor) -> Tensor:
        load_E = nn.functional.normalize(counts_E.float(), p=1, dim=0) * 2**10
        return (load_E.mean() - load_E).round().sign()


class ByOtherMeans(Good):
    """Scales the gate of a router without a bias."""

    def update(self, router: Any, counts_E: Tensor, *, tokens_seen: int) -> None:
        if router.e_score_correction_bias is None:
            router.weight.data.mul_(1.01)
        else:
            super().update(router, counts_E, tokens_seen=tokens_seen)


of = described("balancer", "A balancer that breaks one law", ALL)
GOOD = of(Good)
BROKEN = {
    "balancer/an-update-keeps-the-form-of-the-state": of(DoublePrecision),
    "balancer/whatever-the-load-the-router-stays-finite": of(DividingByOthers),
    "balancer/the-buffer-stays-the-same-tensor": of(Replacing),
    "balancer/parameters-are-left-to-the-optimizer": of(Training),
    "balancer/an-update-is-outside-the-gradient": of(Growing),
    "balancer/the-counts-are-left-alone": of(Consuming),
    "balancer/an-even-load-changes-nothing": of(NeverAtRest),
    "balancer/a-step-without-choices-changes-nothing": of(NothingOfNothing),
    "balancer/crowded-experts-lose-to-idle-ones": of(Crowding, ALL - {"exact-counts"}),
    "balancer/many-updates-even-out-the-load": of(Overshooting),
    "balancer/the-same-load-makes-the-same-update": of(Drifting, ALL - {"expert-symmetric", "scale-free"}),
    "balancer/the-global-generators-are-left-alone": of(Wasteful),
    "balancer/a-resumed-run-goes-on-as-before": of(CountingCalls),
    "balancer/layers-do-not-disturb-one-another": of(OncePerStep),
    "balancer/a-copy-is-the-same-balancer": of(Unpicklable),
    "balancer/a-router-that-was-cast-is-balanced-in-fp32": of(LowPrecision),
    "balancer/an-expert-that-is-out-of-service-stays-out": of(Centring),
    "balancer/a-router-that-cannot-be-balanced-is-a-problem": of(Silent, ALL - {"selection-bias"}),
    "balancer/a-router-without-a-bias-is-refused": of(ByOtherMeans),
    "balancer/counts-of-another-number-of-experts-are-refused": of(Broadcasting),
    "balancer/experts-under-other-numbers-are-balanced-alike": of(PlayingFavourites),
    "balancer/a-larger-batch-moves-the-bias-as-far": of(ByLoad),
    "balancer/loads-that-differ-by-one-are-told-apart": of(Rounding),
}
