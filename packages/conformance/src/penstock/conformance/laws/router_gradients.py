# pyright: basic
"""Laws of routers: what the gate learns from.

Shape suffixes: T tokens, K slots a token, E experts, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.conformance.law import NotApplicable, Subject, expect, law
from penstock.conformance.laws import router_routing, router_slots
from penstock.conformance.laws.routings import (
    EXPERTS,
    HIDDEN_SIZE,
    TOKENS,
    crowded,
    decision_of,
    router_of,
    seeded,
    spread,
    trained,
    weight_of,
)

ROUTER = "router"


@law(ROUTER, needs=(router_routing.everything_is_finite,), capability="trainable")
def the_gradient_reaches_the_gate(subject: Subject) -> None:
    """In training mode the gradient of the weights reaches a parameter, and is finite.

    Do not detach the weights or derive them from the indices. With k=1 a normalised weight is always 1, so such a
    router learns only without normalisation.
    """
    router = router_of(subject).train()
    weight_TE = weight_of(seeded(lambda: router(spread())))
    parameters = trained(router)
    expect(weight_TE.requires_grad and parameters, "the weights have no gradient")
    value = (weight_TE * spread(TOKENS, seed=4)[:, :EXPERTS]).sum()
    gradients = [each for each in torch.autograd.grad(value, parameters, allow_unused=True) if each is not None]
    expect(all(bool(each.isfinite().all()) for each in gradients), "a gradient is not finite")
    expect(any(float(each.abs().max()) > 1e-6 for each in gradients), "every gradient is 0")


@law(
    ROUTER,
    needs=(
        the_gradient_reaches_the_gate,
        router_routing.extreme_hidden_states_are_routed,
        router_routing.ties_are_routed,
    ),
)
def gradients_stay_finite(subject: Subject) -> None:
    """The gradient of the weights is finite for extreme hidden states and for ties.

    A denominator of 1e-20 squares to 0 in fp32: divide before you differentiate, or clamp higher.
    """
    router = router_of(subject)
    batches = {"times 1e4": 1e4 * crowded(), "times -1e4": -1e4 * crowded(), "of 0": torch.zeros(TOKENS, HIDDEN_SIZE)}
    for name, hidden_TD in batches.items():
        hidden_TD.requires_grad_()
        weight_TE = weight_of(router(hidden_TD))
        if not weight_TE.requires_grad:
            raise NotApplicable("the weights have no gradient")
        value = (weight_TE * spread(TOKENS, seed=4)[:, :EXPERTS]).sum()
        for gradient in torch.autograd.grad(value, [hidden_TD, *trained(router)], allow_unused=True):
            expect(
                gradient is None or bool(gradient.isfinite().all()),
                f"the gradient for hidden states {name} is not finite",
            )


@law(ROUTER, needs=(the_gradient_reaches_the_gate,), capability="exact-gradient")
def the_gradient_is_the_derivative(subject: Subject) -> None:
    """Along its own direction the gradient of the weights equals the finite difference, as long as the choice stays the
    same.

    Estimators (straight-through, sparse mixer) differ on purpose: do not declare `exact-gradient` for them.
    """
    router = router_of(subject)
    hidden_TD = spread().requires_grad_()
    factor_TE = spread(TOKENS, seed=4)[:, :EXPERTS]

    def gradient_of(rows_T: Tensor) -> Tensor:
        weight_TE = weight_of(router(hidden_TD))
        expect(weight_TE.requires_grad, "the weights have no gradient")
        (gradient,) = torch.autograd.grad((weight_TE * factor_TE)[rows_T].sum(), hidden_TD, allow_unused=True)
        return torch.zeros_like(hidden_TD) if gradient is None else gradient

    uphill_TD = gradient_of(torch.ones(TOKENS, dtype=torch.bool))
    step_TD = 0.05 * uphill_TD / uphill_TD.norm().clamp(min=1e-20)
    with torch.no_grad():
        ahead, here, behind = (router(hidden_TD + sign * step_TD) for sign in (1, 0, -1))
    stays_T = ((decision_of(ahead) == decision_of(here)) & (decision_of(behind) == decision_of(here))).all(dim=-1)
    rise_TE = (weight_of(ahead).double() - weight_of(behind).double()) * factor_TE
    measured, derived = float(rise_TE[stays_T].sum()), float(2 * (gradient_of(stays_T) * step_TD).sum())
    expect(abs(derived) > 1e-6, "the gradient with respect to the hidden states is 0")
    expect(abs(measured - derived) <= 0.02 * abs(derived), f"a rise of {measured:.4g}, and {derived:.4g} by gradient")


@law(ROUTER, needs=(the_gradient_reaches_the_gate, router_slots.slots_are_accounted_for))
def training_finds_the_experts_that_pay(subject: Subject) -> None:
    """If each expert pays a different reward, 30 Adam steps raise the mean reward, and several experts stay in use.

    A gradient of the wrong sign raises no error: compare yours with finite differences.
    """
    if not subject.claims("trainable"):
        raise NotApplicable("the router is not trainable")
    router = router_of(subject).train()
    reward_TE = spread(TOKENS, seed=5)[:, :EXPERTS]
    optimizer = torch.optim.Adam(trained(router), lr=0.02)
    rewards: list[float] = []
    for _ in range(31):
        routing = seeded(lambda: router(spread()))
        reward = (weight_of(routing) * reward_TE).sum(dim=-1).mean()
        optimizer.zero_grad()
        (-reward).backward()
        optimizer.step()
        rewards.append(float(reward.detach()))
    used = int((decision_of(routing) == 2).any(dim=0).sum())
    expect(rewards[-1] > rewards[0] + 0.1, f"the mean reward goes from {rewards[0]:.3f} to {rewards[-1]:.3f}")
    expect(used > router.k, f"all tokens end in the same {used} of {EXPERTS} experts")
