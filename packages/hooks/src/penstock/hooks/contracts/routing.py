"""What a router decides, what balances it, and the load that both read.

Shape suffixes: T tokens, K experts a token, E experts, D model width, L mixture-of-experts layers, B sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from penstock.hooks.contracts.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Routing:
    """What one router decided for T tokens.

    `expert_TK` int64, the chosen experts of each token, all different. `weight_TK` fp32, what each expert's output is
    multiplied by. `logits_TE` fp32, the raw gate output. `score_TE` fp32, the affinity before any selection bias.

    `kept_TK` bool, the slots whose expert computes (None: every slot). A slot that is not kept is dropped or empty; its
    weight is 0 and nothing is computed for it. `dropped_TK` bool tells the two apart (None: no slot is dropped): a
    dropped slot names the expert that the token chose and that turned it away, for want of capacity; an empty one was
    never chosen and names any valid expert. "All different" holds for the slots that are kept or dropped.
    """

    expert_TK: Tensor
    weight_TK: Tensor
    logits_TE: Tensor
    score_TE: Tensor
    kept_TK: Tensor | None = None
    dropped_TK: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """How many assignments each expert computed: `counts_LE` int64, one row a mixture-of-experts layer.

    Counted once a forward pass, from real tokens only. `dropped_LE` int64, those that each expert turned away (None: no
    router drops any): `counts_LE + dropped_LE` is what tokens chose.
    """

    counts_LE: Tensor
    layers: tuple[int, ...]
    dropped_LE: Tensor | None = None

    @property
    def chosen_LE(self) -> Tensor:
        """What tokens chose, before capacity drops any."""
        return self.counts_LE if self.dropped_LE is None else self.counts_LE + self.dropped_LE

    def __add__(self, other: ExpertLoad) -> ExpertLoad:
        """The load of two forward passes of the same layers; raises ValueError where the layers differ."""
        if self.layers != other.layers:
            raise ValueError(f"loads of layers {self.layers} and {other.layers} have no sum")
        dropped = [load.dropped_LE for load in (self, other) if load.dropped_LE is not None]
        dropped_LE = sum(dropped[1:], dropped[0]) if dropped else None
        return ExpertLoad(self.counts_LE + other.counts_LE, self.layers, dropped_LE)


@runtime_checkable
class Router(Protocol):
    """A `torch.nn.Module` that chooses `k` of `experts` experts for each token.

    `e_score_correction_bias` is an fp32 buffer [E] that is added to the scores for the choice alone, or None where the
    router has none; balancers change it.
    """

    experts: int
    k: int
    e_score_correction_bias: Tensor | None

    def __call__(self, hidden_TD: Tensor) -> Routing:
        """The routing of T tokens, none of which is padding."""
        ...


@runtime_checkable
class AskingRouter(Protocol):
    """A router that is called with more than hidden states; `asks` names what.

    "token_T": the token ids of the same rows, always. "expert_TK": the experts of each row where they are given, which
    the router then weighs instead of choosing; None where it is to choose.
    """

    asks: frozenset[str]

    def __call__(self, hidden_TD: Tensor, *, token_T: Tensor, expert_TK: Tensor | None = None) -> Routing: ...


@runtime_checkable
class BatchDependentRouter(Protocol):
    """A router that says whether it may choose other experts for a token among other tokens, in evaluation too.

    Where `depends_on_batch` is True, evaluation reads one text at a time, so that no figure depends on the texts beside
    it. Components whose routers do so under default settings lack the capability `batch-invariant`.
    """

    @property
    def depends_on_batch(self) -> bool: ...


@runtime_checkable
class OnlineRouter(Router, Protocol):
    """A router that also learns outside the gradient.

    Its forward passes in training gather what it learns from, where gradients are enabled, and route alike until
    `end_step`, which the training loop calls once an optimizer step. `total` sums a tensor over ranks.
    """

    def end_step(self, total: Callable[[Tensor], Tensor]) -> None: ...


@runtime_checkable
class ReplaceableRouter(Router, Protocol):
    """A router that is no module of ours, but whose choice the model can be made to compute otherwise.

    While `replacing(change)` lasts, the model computes `change(routing)` in the place of each `routing` that the router
    chose, and its output says so; where the two are one object, the bits are those that they are without.
    """

    def replacing(self, change: Callable[[Routing], Routing]) -> AbstractContextManager[None]: ...


class RouterFactory(Protocol):
    """Makes the router of one layer."""

    def __call__(self, layer: int, *, hidden_size: int, experts: int) -> Router: ...


@dataclass(frozen=True, slots=True)
class BatchLoad:
    """What one layer's tokens chose in the whole batch that is to be balanced, of which a forward pass is a part.

    `counts_E` int64, the assignments of each expert before capacity drops any; `tokens`, the counted tokens. Both are
    over all micro-batches and ranks, and without padding.
    """

    counts_E: Tensor
    tokens: int | Tensor


class BalanceLoss(Protocol):
    """A scalar penalty for one layer's routing; the training loop adds `weight * loss` of every layer.

    `mask_T` is True for tokens that count (None: all do). The loop takes the mean of the micro-batches' losses.

    A loss may have an attribute `scope` that asks for more. "counts-first", "buffer" and "lagged": it is called with
    `batch=BatchLoad(...)`, and the loop takes the sum over micro-batches and ranks. The counts are exact for
    "counts-first", those of the step's micro-batches so far for "buffer", and the step's before for "lagged" (all 0 in
    the first). "sequence": it is called with `sequences=B`, the tokens being B sequences of equal length, one after the
    other.
    """

    weight: float

    def __call__(self, routing: Routing, mask_T: Tensor | None = None) -> Tensor: ...


class Balancer(Protocol):
    """Changes a router once an optimizer step, from the load of the whole global batch.

    `counts_E` int64 assignments of the step before capacity drops any; `tokens_seen` trained tokens including this
    step. A balancer that needs more than counts has `statistic(router, routing, mask_T=None)`, a tensor that is summed
    over the micro-batches of a step and over ranks; `update` is then called with `statistic=` that sum.
    """

    def update(self, router: Router, counts_E: Tensor, *, tokens_seen: int) -> None: ...
