# pyright: basic
"""Laws of routers: slots that compute, slots that were turned away, and empty ones.

Shape suffixes: T tokens, K slots a token, E experts, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from penstock.conformance.law import NotApplicable, Subject, expect, law
from penstock.conformance.laws import router_routing
from penstock.conformance.laws.routings import crowded, decision_of, dropped_of, kept_of, router_of, spread, trained
from penstock.hooks.contracts import Routing

ROUTER = "router"


@law(ROUTER, needs=(router_routing.a_routing_has_the_shapes_and_types_of_the_contract,))
def slots_are_accounted_for(subject: Subject) -> None:
    """Every slot is kept, dropped or empty: `kept_TK` and `dropped_TK` are bool [T, K] and never both True.

    A slot whose expert turned the token away is dropped; a slot that was never chosen is neither.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        routing = router(hidden_TD)
        for name, slots in (("kept_TK", kept_of(routing)), ("dropped_TK", dropped_of(routing))):
            fits = slots.dtype == torch.bool and slots.shape == routing.expert_TK.shape
            expect(fits, f"{name} is {slots.dtype} {list(slots.shape)}")
        both = int((kept_of(routing) & dropped_of(routing)).sum())
        expect(both == 0, f"{both} slots are kept and dropped at once")


@law(ROUTER, needs=(slots_are_accounted_for, router_routing.everything_is_finite))
def a_slot_that_is_not_kept_weighs_nothing(subject: Subject) -> None:
    """The weight of a dropped or empty slot is 0.

    Zero the weights of dropped and empty slots: expert outputs are multiplied by them.
    """
    routing = _routing_with_lost_slots(router_of(subject))
    heaviest = float(routing.weight_TK[~kept_of(routing)].detach().abs().max())
    expect(heaviest == 0, f"a slot that is not kept weighs {heaviest:.3g}")


@law(ROUTER, needs=(a_slot_that_is_not_kept_weighs_nothing,))
def nothing_flows_back_through_a_slot_that_is_not_kept(subject: Subject) -> None:
    """A dropped or empty slot sends no gradient to parameters or hidden states.

    Zero its weight with `masked_fill` or `where`, not with a straight-through sum.
    """
    router = router_of(subject)
    hidden_TD = crowded().requires_grad_()
    routing = _routing_with_lost_slots(router, hidden_TD)
    lost = routing.weight_TK[~kept_of(routing)]
    if not lost.requires_grad:
        raise NotApplicable("the weights have no gradient")
    gradients = torch.autograd.grad(lost.sum(), [hidden_TD, *trained(router)], allow_unused=True)
    largest = max((float(each.abs().max()) for each in gradients if each is not None), default=0.0)
    expect(largest == 0, f"slots that are not kept have a gradient of up to {largest:.3g}")


def _routing_with_lost_slots(router: Any, hidden_TD: Tensor | None = None) -> Routing:
    routing = router(crowded() if hidden_TD is None else hidden_TD)
    if bool(kept_of(routing).all()):
        raise NotApplicable("every slot is kept, although the tokens want the same experts")
    return routing


@law(ROUTER, needs=(slots_are_accounted_for,), capability="dropless")
def every_slot_is_kept(subject: Subject) -> None:
    """Every slot computes, however crowded the experts are.

    Do not declare `dropless` for a router with a capacity.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        lost = int((~kept_of(router(hidden_TD))).sum())
        expect(lost == 0, f"{lost} slots are not kept")


DIFFERENT = (router_routing.the_experts_of_a_token_are_all_different,)


@law(ROUTER, needs=(slots_are_accounted_for, *DIFFERENT), capability="exactly-k")
def every_token_chooses_k_experts(subject: Subject) -> None:
    """Every token chooses `k` experts: kept plus dropped slots add up to `k`.

    Report tokens over capacity in `dropped_TK`: a drop that looks like an empty slot is missing from every count.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded(), spread(1)):
        routing = router(hidden_TD)
        chosen_T = (kept_of(routing) | dropped_of(routing)).sum(dim=-1)
        lowest, highest = int(chosen_T.min()), int(chosen_T.max())
        expect(lowest == highest == router.k, f"tokens choose {lowest} to {highest} experts, and k is {router.k}")


@law(ROUTER, needs=(slots_are_accounted_for,), capability="capacity-bounded")
def no_expert_exceeds_its_capacity(subject: Subject) -> None:
    """No expert computes more tokens than the router's `capacity(tokens)` for that batch.

    Give the router a method `capacity`, and drop what exceeds it. Expert buffers may be sized by it.
    """
    router = router_of(subject)
    expect(callable(getattr(router, "capacity", None)), "it has no method capacity(tokens)")
    for hidden_TD in (spread(), crowded(), spread(1)):
        busiest, capacity = int(_load_of(router, hidden_TD)[0].max()), router.capacity(len(hidden_TD))
        seen = f"of {len(hidden_TD)} tokens one expert computes {busiest}, and its capacity is {capacity}"
        expect(busiest <= capacity, seen)


@law(ROUTER, needs=(no_expert_exceeds_its_capacity,))
def an_expert_with_room_turns_no_token_away(subject: Subject) -> None:
    """An expert that drops a token is filled to its capacity.

    Count positions within an expert from 0 and compare with `<`: an off-by-one leaves a place unused.
    """
    if not subject.claims("capacity-bounded"):
        raise NotApplicable("the router has no capacity")
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        kept_E, dropped_E = _load_of(router, hidden_TD)
        room_E = (router.capacity(len(hidden_TD)) - kept_E)[dropped_E > 0]
        expect(not bool(room_E.any()), f"experts with room for {room_E.tolist()} more turn tokens away")


def _load_of(router: Any, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
    """How many tokens each expert computes, and how many it turns away."""
    decision_TE = decision_of(router(hidden_TD))
    return (decision_TE == 2).sum(dim=0), (decision_TE == 1).sum(dim=0)
