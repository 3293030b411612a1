# pyright: basic
"""Laws of routers: what the other tokens of a batch may change.

Shape suffixes: T tokens, K slots a token, E experts, D model width.
"""

from __future__ import annotations

import torch

from penstock.conformance.law import NotApplicable, Subject, expect, law
from penstock.conformance.laws import router_routing
from penstock.conformance.laws.routings import (
    EXPERTS,
    TOKENS,
    crowded,
    expect_same_routing,
    expect_shapes,
    expect_valid,
    router_of,
    rows_of,
    spread,
)
from penstock.hooks.problems import ProblemError

ROUTER = "router"


@law(ROUTER, needs=(router_routing.everything_is_finite,), capability="empty-batches")
def a_batch_without_tokens_is_routed(subject: Subject) -> None:
    """An empty batch gives empty tensors of the right shapes.

    A rank may get only padding: do not take a maximum or a mean over tokens.
    """
    router = router_of(subject)
    routing = router(spread(0))
    expect(routing.expert_TK.shape[0] == 0 and routing.weight_TK.shape == routing.expert_TK.shape, "T is not 0")
    expect(tuple(routing.logits_TE.shape) == (0, EXPERTS), f"logits are {list(routing.logits_TE.shape)}")


@law(ROUTER, needs=(router_routing.weights_are_not_negative,))
def every_k_that_is_accepted_works(subject: Subject) -> None:
    """k = 1, k = all experts and a single expert work, or are refused when the router is built.

    Raise ValueError in the constructor for sizes that cannot work.
    """
    if not subject.has_field("k"):
        raise NotApplicable("the router has no setting k")
    for k, experts in ((1, EXPERTS), (EXPERTS, EXPERTS), (1, 1)):
        try:
            router = router_of(subject, {"k": k}, experts=experts)
        except (ValueError, ProblemError):
            continue
        routing = router(spread())
        expect_shapes(routing, router, TOKENS)
        expect(router.k == k, f"built with k={k}, it states {router.k}")
        expect_valid(routing, experts, f"with {k} of {experts} experts")


@law(ROUTER, needs=(router_routing.everything_is_finite,), capability="permutation-equivariant")
def tokens_in_another_order_are_routed_as_before(subject: Subject) -> None:
    """Permuting the tokens permutes the routing.

    If capacity is filled in token order, do not declare `permutation-equivariant`.
    """
    router = router_of(subject)
    order_T = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(3))
    for hidden_TD in (spread(), crowded()):
        expect_same_routing(rows_of(router(hidden_TD), order_T), router(hidden_TD[order_T]), "in another order")


@law(ROUTER, needs=(router_routing.one_token_is_routed,), capability="batch-invariant")
def a_token_is_routed_alone_as_in_a_batch(subject: Subject) -> None:
    """A token's routing is the same alone and in any batch.

    Anything computed over the batch (a capacity, a mean, experts choosing tokens) makes serving differ from training.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        together = router(hidden_TD)
        for token in (0, TOKENS // 2, TOKENS - 1):
            rows = slice(token, token + 1)
            expect_same_routing(router(hidden_TD[rows]), rows_of(together, rows), f"alone, token {token}")


@law(ROUTER, needs=(router_routing.everything_is_finite,), capability="causal")
def later_tokens_change_nothing(subject: Subject) -> None:
    """The routing of a token does not depend on the tokens after it.

    Experts that choose among the tokens of a sequence leak the future: do not declare `causal` for such a router.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        past = slice(0, TOKENS // 2)
        before = rows_of(router(hidden_TD), past)
        for factor in (4.0, -4.0, 0.0):
            changed_TD = torch.cat([hidden_TD[past], factor * hidden_TD[TOKENS // 2 :]])
            expect_same_routing(before, rows_of(router(changed_TD), past), f"with later tokens times {factor:g}")


@law(ROUTER, needs=(router_routing.everything_is_finite,))
def hidden_states_are_left_alone(subject: Subject) -> None:
    """Routing does not change the hidden states.

    The experts read them next: do not use in-place operations on them or on a view of them.
    """
    router = router_of(subject)
    hidden_TD = spread()
    router(hidden_TD)
    expect(torch.equal(hidden_TD, spread()), "the hidden states have changed")
