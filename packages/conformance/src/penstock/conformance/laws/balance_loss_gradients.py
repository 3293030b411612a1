# pyright: basic
"""Laws of balancing losses: the gradient, from the loss to the logits.

Shape suffixes: T tokens, E experts.
"""

from __future__ import annotations

import torch

from penstock.conformance.law import Subject, expect, law
from penstock.conformance.laws import balance_loss_form
from penstock.conformance.laws.balance_loss_form import LOSS, NUMBER
from penstock.conformance.laws.losses import extremes, gradient_of, logits, routing_of, towards_one_pair


@law(LOSS, needs=NUMBER)
def the_gradient_reaches_the_logits(subject: Subject) -> None:
    """The loss has a finite gradient in the logits, which is not 0 if the load is uneven.

    Counts have no gradient: multiply them by scores, and do not detach the scores.
    """
    logits_TE = towards_one_pair(0.5).requires_grad_()
    loss = subject.build()(routing_of(logits_TE))
    expect(loss.requires_grad, "the loss has no gradient")
    gradient_TE = gradient_of(subject.build(), logits_TE)
    expect(bool(gradient_TE.isfinite().all()), "the gradient is not finite")
    expect(bool(gradient_TE.any()), "the gradient is 0")


GRADIENT = (the_gradient_reaches_the_logits,)


@law(LOSS, needs=(*GRADIENT, balance_loss_form.extreme_logits_have_a_finite_loss))
def gradients_stay_finite(subject: Subject) -> None:
    """The gradient is finite for extreme logits and for ties.

    The square root of a variance has an infinite slope at 0: add a small number under the root.
    """
    for name, logits_TE in extremes().items():
        finite = bool(gradient_of(subject.build(), logits_TE).isfinite().all())
        expect(finite, f"the gradient of logits {name} is not finite")


@law(LOSS, needs=GRADIENT, capability="exact-gradient")
def the_gradient_is_the_derivative(subject: Subject) -> None:
    """Along its own direction the gradient equals the finite difference, as long as the choice stays the same.

    Estimators differ on purpose: do not declare `exact-gradient` for them.
    """
    loss, routing = subject.build(), routing_of(towards_one_pair(0.5))
    uphill_TE = gradient_of(loss, routing.logits_TE)
    step_TE = 0.1 * uphill_TE / uphill_TE.norm()
    ahead, behind = (
        loss(routing_of(routing.logits_TE + sign * step_TE, expert_TK=routing.expert_TK)) for sign in (1, -1)
    )
    measured, derived = float(ahead - behind), float(2 * (uphill_TE * step_TE).sum())
    expect(abs(measured - derived) <= 0.02 * derived, f"a rise of {measured:.4g}, and {derived:.4g} by gradient")


@law(LOSS, needs=NUMBER, capability="exact-in-fp64")
def fp64_routings_are_computed_in_fp64(subject: Subject) -> None:
    """The loss of an fp64 routing is fp64 and precise enough to resolve a step of 1e-6.

    Convert to the dtype of the scores, not with `.float()`: gradients are checked in fp64.
    """
    loss, routing = subject.build(), routing_of(towards_one_pair(0.5).double())
    direction_TE = logits(seed=6).double()
    behind, here, ahead = (
        loss(routing_of(routing.logits_TE + 1e-6 * step * direction_TE, expert_TK=routing.expert_TK))
        for step in (-1, 0, 1)
    )
    expect(here.dtype == torch.float64, f"the loss is {here.dtype}")
    moved, bend = float((ahead - behind).abs()), float((ahead - 2 * here + behind).abs())
    seen = f"a step of 1e-6 moves the loss by {moved:.3g}, with a jump of {bend:.3g}"
    expect(moved > 0 and bend <= 1e-3 * moved, seen)
