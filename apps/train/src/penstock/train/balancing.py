"""Balancing the load of experts over the whole batch of an optimizer step.

A step's batch is cut into micro-batches and ranks, and a balancing loss of the whole batch needs its counts before the
first backward: f in E * sum f P has no gradient, so with the counts known the parts' gradients sum to the whole's, up
to rounding. The loss's `scope` says where the counts come from:

- "counts-first": exact. With one micro-batch per rank, the forward pass is counted and reduced before its loss.
  With more, a pass without gradients over all of them comes first and computes only hidden states; random numbers and
  buffers are restored after it. A `Remembering` model keeps what it can reuse for the passes with gradients.
- "buffer": the counts of the step's micro-batches so far, over ranks (arXiv 2501.11873 Algorithm 1).
- "lagged": the counts of the previous step. The first step has none, so its loss has no gradient. Every checkpoint
  holds them.

Counts are taken from the routings that a forward pass returns, so nothing that is repeated (activation checkpointing)
is counted twice; padding never counts; and assignments dropped by capacity are counted separately. They travel as one
vector of integers, which one reduction per step sums over ranks ("buffer" needs one per micro-batch).

Shape suffixes: L mixture-of-experts layers, E experts, T tokens, B sequences, S tokens of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import (
    BalanceLoss,
    Balancer,
    BatchLoad,
    ExpertLoad,
    ModelOutput,
    OnlineRouter,
    Remembering,
    Router,
    Routing,
)
from penstock.routers.load import expert_load, load_metrics
from penstock.train.ahead import routed_ahead

COUNTS_FIRST, BUFFER, LAGGED = WHOLE_BATCH = ("counts-first", "buffer", "lagged")


def over_ranks(load: ExpertLoad, total: Callable[[Tensor], Tensor]) -> ExpertLoad:
    """The load of all ranks. Kept and dropped assignments are summed as one tensor [2, L, E]."""
    kept_LE, dropped_LE = total(_kept_and_dropped(load))
    return ExpertLoad(kept_LE, load.layers, dropped_LE)


def _kept_and_dropped(load: ExpertLoad) -> Tensor:
    dropped_LE = torch.zeros_like(load.counts_LE) if load.dropped_LE is None else load.dropped_LE
    return torch.stack((load.counts_LE, dropped_LE))


class Routed(Protocol):
    """The members of a `LanguageModel` that balancing uses."""

    @property
    def routers(self) -> Mapping[int, Router]: ...

    def __call__(self, inputs: Tensor) -> ModelOutput: ...


class Balancing:
    """The losses and balancers of a run, and the counts that they need.

    `parts` micro-batches on each of `ranks` make a step; `total` sums a tensor over ranks; `routings` is the `Engine`
    method of that name (None: micro-batches are tokens, and the model is called). In each step: `begin`, then
    `penalty` for every micro-batch, then `finish` after the optimizer, or `abandon` if the step fails.
    """

    def __init__(
        self,
        model: Routed,
        losses: Mapping[str, BalanceLoss],
        balancers: Sequence[Balancer],
        *,
        parts: int = 1,
        ranks: int = 1,
        total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        routings: Callable[[Iterable[Any]], Iterator[Mapping[int, Routing]]] | None = None,
    ) -> None:
        self.model, self.losses, self.balancers = model, dict(losses), list(balancers)
        self.parts, self.ranks, self.total = parts, ranks, total
        self.routings = routings or self._routings_of_tokens
        self.scopes = {name: getattr(loss, "scope", None) for name, loss in self.losses.items()}
        self._before: ExpertLoad | None = None  # of the previous step
        self._tokens = 0
        self._ahead: ExpertLoad | None = None  # of the whole batch, if it was counted first
        self._own: list[ExpertLoad] = []  # of this rank's micro-batches
        self._buffer: ExpertLoad | None = None
        self._used: dict[str, list[Tensor]] = {}  # the counts that each approximate scope was given
        self._statistics: dict[tuple[int, int], Tensor] = {}
        self._until_finish = ExitStack()

    @property
    def unlike(self) -> str | None:
        """What differs in a step that is cut into other ranks and micro-batches, as a clause; None if nothing does."""
        if buffered := [name for name, scope in self.scopes.items() if scope == BUFFER]:
            return (
                f"balance loss '{buffered[0]}' counts the micro-batches so far, which are others now, so the run "
                "differs from an uninterrupted one"
            )
        if any(isinstance(router, OnlineRouter) for router in self.model.routers.values()):
            return (
                "routers learn from sums over tokens, which are added in another order, so the run differs from an "
                "uninterrupted one by rounding"
            )
        return None

    def begin(self, batches: Iterable[tuple[Any, Tensor | None]], *, tokens: int) -> None:
        """Begins a step with this number of counted tokens in the global batch. `batches` are the micro-batches of this
        rank, each with its mask [B, S] (None: all count); they are only read if they must be counted first."""
        self._tokens, self._ahead, self._buffer = tokens, None, None
        self._own, self._used, self._statistics = [], {}, {}
        self.abandon()
        if self.parts > 1 and COUNTS_FIRST in self.scopes.values():
            with ExitStack() as stack:
                if isinstance(self.model, Remembering):
                    stack.enter_context(self.model.remembering())
                self._ahead = over_ranks(self._counted_first(batches), self.total)
                self._until_finish = stack.pop_all()

    def abandon(self) -> None:
        """Frees what the model cached for a failed step."""
        self._until_finish.close()

    def _counted_first(self, batches: Iterable[tuple[Any, Tensor | None]]) -> ExpertLoad:
        masks: list[Tensor | None] = []

        def unmasked() -> Iterator[Any]:
            for batch, mask_BS in batches:
                masks.append(None if mask_BS is None else mask_BS.flatten())
                yield batch

        loads = [expert_load(routings, masks[-1]) for routings in self.routings(unmasked())]
        return sum(loads[1:], loads[0])

    def _routings_of_tokens(self, batches: Iterable[Tensor]) -> Iterator[Mapping[int, Routing]]:
        return routed_ahead(cast(nn.Module, self.model), lambda token_BS: self.model(token_BS).routings, batches)

    def penalty(
        self, routings: Mapping[int, Routing], *, sequences: int, mask_T: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """What a micro-batch adds to the objective (None: nothing), and the value of each loss: its mean over layers
        times the micro-batch's share of the step. These are summed over micro-batches and ranks, as gradients are."""
        own = expert_load(routings, mask_T)
        self._own.append(own)
        if not own.layers:
            return None, {}
        batches = {scope: self._batches(scope, own) for scope in WHOLE_BATCH if scope in self.scopes.values()}
        objective: Tensor | None = None
        measured: dict[str, Tensor] = {}
        for name, loss in self.losses.items():
            scope = self.scopes[name]
            values = [
                _call(
                    loss, scope, routings[layer], mask_T, sequences, batches[scope][row] if scope in batches else None
                )
                for row, layer in enumerate(own.layers)
            ]
            share = 1 if scope in WHOLE_BATCH else self.parts * self.ranks
            value = torch.stack(values).sum() / share
            weighted = loss.weight * value
            objective = weighted if objective is None else objective + weighted
            measured[f"balance/{name}"] = value.detach() / len(values)
        self._gather_statistics(routings, mask_T)
        return objective, measured

    def _batches(self, scope: str, own: ExpertLoad) -> list[BatchLoad]:
        """The counts of each layer that the scope gives the losses at this micro-batch."""
        match scope:
            case "counts-first":
                if self._ahead is None:
                    self._ahead = over_ranks(own, self.total)
                load = self._ahead
            case "buffer":
                now = over_ranks(own, self.total)
                load = self._buffer = now if self._buffer is None else self._buffer + now
            case _:
                load = self._before or ExpertLoad(torch.zeros_like(own.counts_LE), own.layers)
        chosen_LE = load.chosen_LE
        self._used.setdefault(scope, []).append(chosen_LE)
        return [BatchLoad(chosen_E, self._tokens) for chosen_E in chosen_LE]

    @torch.no_grad()
    def _gather_statistics(self, routings: Mapping[int, Routing], mask_T: Tensor | None) -> None:
        for number, balancer in enumerate(self.balancers):
            statistic = getattr(balancer, "statistic", None)
            if statistic is None:
                continue
            for layer, routing in routings.items():
                value = statistic(self.model.routers[layer], routing, mask_T)
                known = self._statistics.get((number, layer))
                self._statistics[number, layer] = value if known is None else known + value

    def finish(self, *, tokens_seen: int) -> tuple[ExpertLoad, dict[str, float]]:
        """Updates the routers from the step's load; returns the load over all ranks and the metrics to log."""
        self._until_finish.close()
        load = self._ahead or self._buffer or over_ranks(sum(self._own[1:], self._own[0]), self.total)
        chosen_LE = load.chosen_LE
        for number, balancer in enumerate(self.balancers):
            for row, layer in enumerate(load.layers):
                statistic = self._statistics.get((number, layer))
                more = {} if statistic is None else {"statistic": self.total(statistic)}
                balancer.update(self.model.routers[layer], chosen_LE[row], tokens_seen=tokens_seen, **more)
        for layer in load.layers:
            if isinstance(router := self.model.routers[layer], OnlineRouter):
                router.end_step(self.total)
        self._before = load
        return load, self._metrics(load)

    def _metrics(self, load: ExpertLoad) -> dict[str, float]:
        if not load.layers:
            return {}
        metrics = {f"load/{name}": value for name, value in load_metrics(load.counts_LE).items()}
        chosen_LE = load.chosen_LE
        if dropped := int((chosen_LE - load.counts_LE).sum()):
            metrics["load/dropped"] = dropped / int(chosen_LE.sum())
            metrics["load/chosen_max_violation"] = load_metrics(chosen_LE)["max_violation"]
        for name, scope in self.scopes.items():
            if scope in self._used and scope != COUNTS_FIRST:
                error = gradient_error(self.losses[name], self._used[scope], chosen_LE)
                metrics[f"balance/{name}/gradient_error"] = error
        return metrics

    def state(self) -> dict[str, Any]:
        """State for a checkpoint: the counts of the last step."""
        before = self._before
        return {} if before is None else {"counts": _kept_and_dropped(before).cpu(), "layers": list(before.layers)}

    def load_state(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Continues from `state()`. The state of an early checkpoint format is empty, and then so are the counts."""
        self._before = None
        if state:
            kept_LE, dropped_LE = state["counts"].to(device)
            self._before = ExpertLoad(kept_LE, tuple(state["layers"]), dropped_LE)


def gradient_error(loss: Any, used: Sequence[Tensor], exact_LE: Tensor) -> float:
    """How far the gradient of a global-batch loss with the counts `used`, one [L, E] per micro-batch, is from the
    gradient with the batch's own counts.

    It is the relative error of the gradient with respect to each micro-batch's mean normalised scores, over all layers
    and micro-batches together; for the global loss that is |f_used - f| / |f - 1/E|. 0 is exact, 1 is as wrong as no
    balancing at all; 0 if both gradients are 0.
    """
    exact = _slopes(loss, exact_LE)
    wrong = math.sqrt(sum(float((_slopes(loss, used_LE) - exact).square().sum()) for used_LE in used))
    size = math.sqrt(len(used) * float(exact.square().sum()))
    return wrong / size if size > 0 else (math.inf if wrong > 0 else 0.0)


def _slopes(loss: Any, counts_LE: Tensor) -> Tensor:
    """fp64 [L, E], the gradient of the loss with respect to mean normalised scores, at a load: that of a batch of one
    token whose scores are even."""
    experts = counts_LE.shape[-1]
    score_1E = torch.full((1, experts), 1 / experts, dtype=torch.float64, device=counts_LE.device, requires_grad=True)
    expert_11 = torch.zeros(1, 1, dtype=torch.int64, device=counts_LE.device)
    probe = Routing(expert_11, torch.ones_like(expert_11, dtype=torch.float32), score_1E.log(), score_1E)
    slopes = [torch.autograd.grad(loss(probe, batch=BatchLoad(counts_E, 1)), score_1E)[0] for counts_E in counts_LE]
    return torch.cat(slopes)


def _call(
    loss: Any, scope: str | None, routing: Routing, mask_T: Tensor | None, sequences: int, batch: BatchLoad | None
) -> Tensor:
    """Calls a loss with what its scope asks for; one that asks for nothing is called as in contract 1."""
    if batch is not None:
        return loss(routing, mask_T, batch=batch)
    if scope == "sequence":
        return loss(routing, mask_T, sequences=sequences)
    return loss(routing) if mask_T is None else loss(routing, mask_T)
