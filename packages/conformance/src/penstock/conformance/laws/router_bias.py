# pyright: basic
"""Laws of routers: the selection bias, which chooses and never weighs.

Shape suffixes: T tokens, K slots a token, E experts, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from penstock.conformance.law import NotApplicable, Subject, expect, law
from penstock.conformance.laws import router_routing
from penstock.conformance.laws.routings import (
    EXPERTS,
    TOKENS,
    chosen_of,
    expect_same_routing,
    expect_valid,
    router_of,
    spread,
)

ROUTER = "router"


@law(ROUTER, needs=(router_routing.everything_is_finite,))
def the_bias_is_a_buffer_of_the_state(subject: Subject) -> None:
    """The selection bias is an fp32 buffer [E] without gradient that is in `state_dict()`.

    `register_buffer("e_score_correction_bias", torch.zeros(experts))`: a balancer changes it, a checkpoint keeps it.
    """
    router = _biased_router(subject)
    bias_E = router.e_score_correction_bias
    expect("e_score_correction_bias" in dict(router.named_buffers()), "it is no buffer")
    expect("e_score_correction_bias" in router.state_dict(), "state_dict() lacks it")
    seen = f"{bias_E.dtype} {list(bias_E.shape)}, requires_grad={bias_E.requires_grad}"
    expect(bias_E.dtype == torch.float32 and bias_E.shape == (EXPERTS,) and not bias_E.requires_grad, f"it is {seen}")


@law(ROUTER, needs=(the_bias_is_a_buffer_of_the_state,))
def the_bias_keeps_its_bits_when_the_model_is_cast(subject: Subject) -> None:
    """`.bfloat16()`, `.half()` and `.to(dtype)` leave the selection bias in fp32, bit for bit.

    bf16 has 8 bits of precision, so steps of 0.001 on a bias near 1 would be lost. Restore the fp32 bias in `_apply`.
    """
    value_E = 1 + torch.arange(EXPERTS) / 1000
    casts: dict[str, Callable[[nn.Module], object]] = {
        ".bfloat16()": nn.Module.bfloat16,
        ".half()": nn.Module.half,
        ".to(torch.bfloat16)": lambda router: router.to(torch.bfloat16),
    }
    for name, cast in casts.items():
        router = _biased_router(subject, value_E)
        cast(router)
        bias_E = router.e_score_correction_bias
        expect(bias_E.dtype == torch.float32 and torch.equal(bias_E, value_E), f"{name} makes it {bias_E.dtype}")


@law(ROUTER, needs=(the_bias_is_a_buffer_of_the_state,))
def the_bias_decides_the_choice(subject: Subject) -> None:
    """An expert whose bias outweighs every score is chosen by every token.

    Add `e_score_correction_bias` to the scores before choosing.
    """
    for expert in (0, EXPERTS - 1):
        router = _biased_router(subject, 1000 * nn.functional.one_hot(torch.tensor(expert), EXPERTS).float())
        tokens = int(chosen_of(router(spread()))[:, expert].sum())
        expect(tokens == TOKENS, f"with a bias of 1000, expert {expert} is chosen by {tokens} of {TOKENS} tokens")


@law(ROUTER, needs=(the_bias_is_a_buffer_of_the_state, router_routing.one_token_is_routed))
def the_bias_never_reaches_the_weights(subject: Subject) -> None:
    """As long as the choice stays the same, the bias changes no weight, logit or score.

    Gather weights from the scores without the bias: with it, routers still train and balance, but the model is worse.
    """
    router = _biased_router(subject)
    for hidden_TD in spread(8).split(1):
        router.e_score_correction_bias.zero_()
        before = router(hidden_TD)
        router.e_score_correction_bias.copy_(chosen_of(before)[0] * torch.arange(10, 10 + EXPERTS))
        after = router(hidden_TD)
        expect_same_routing(before, after, "with a bias on the experts that are chosen anyway")
        for name in ("logits_TE", "score_TE"):
            expect(torch.equal(getattr(before, name), getattr(after, name)), f"the bias changes {name}")


@law(ROUTER, needs=(the_bias_is_a_buffer_of_the_state, router_routing.weights_are_not_negative))
def an_expert_with_a_bias_of_minus_infinity_is_never_chosen(subject: Subject) -> None:
    """A bias of -inf takes an expert out of service; the others get tokens with finite weights.

    Use biased scores only for comparison; do not multiply them, because 0 times -inf is NaN.
    """
    router = _biased_router(subject)
    if router.k == EXPERTS:
        raise NotApplicable("every token goes to every expert")
    busiest = int(chosen_of(router(spread())).sum(dim=0).argmax())
    router.e_score_correction_bias[busiest] = float("-inf")
    routing = router(spread())
    expect_valid(routing, EXPERTS, "with a bias of -inf")
    tokens = int(chosen_of(routing)[:, busiest].sum())
    expect(tokens == 0, f"{tokens} tokens choose an expert with a bias of -inf")


@law(ROUTER, needs=(router_routing.everything_is_finite,), capability="no-selection-bias")
def there_is_no_bias(subject: Subject) -> None:
    """`e_score_correction_bias` is None.

    `config validate` refuses such a router beside a balancer that sets the bias, before anything is built.
    """
    expect(router_of(subject).e_score_correction_bias is None, "the router has a selection bias")


def _biased_router(subject: Subject, value_E: Tensor | None = None) -> Any:
    router = router_of(subject)
    if router.e_score_correction_bias is None:
        raise NotApplicable("the router has no selection bias")
    if value_E is not None:
        router.e_score_correction_bias.copy_(value_E)
    return router
