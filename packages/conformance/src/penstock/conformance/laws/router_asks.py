# pyright: basic
"""Laws of routers: what they ask for beside hidden states.

Shape suffixes: T tokens, K slots a token, E experts.
"""

from __future__ import annotations

import torch

from penstock.conformance.law import NotApplicable, Subject, expect, law
from penstock.conformance.laws import router_gradients, router_routing
from penstock.conformance.laws.routings import (
    EXPERTS,
    TOKENS,
    asks_of,
    decision_of,
    expect_same_routing,
    expect_valid,
    router_of,
    spread,
    trained,
)

ROUTER = "router"
KNOWN = frozenset({"token_T", "expert_TK"})


@law(ROUTER, needs=(router_routing.it_is_a_module_that_states_its_sizes,))
def it_asks_for_what_a_model_can_give(subject: Subject) -> None:
    """If the router has `asks`, it is a frozenset that contains only "token_T" and "expert_TK".

    A model provides nothing else: write `asks = frozenset({"token_T"})`, and accept it as a keyword argument.
    """
    router = router_of(subject)
    if not hasattr(router, "asks"):
        raise NotApplicable("the router asks for nothing")
    asks = router.asks
    expect(isinstance(asks, frozenset) and asks <= KNOWN, f"it asks for {asks!r}; known: {sorted(KNOWN)}")


@law(ROUTER, needs=(it_asks_for_what_a_model_can_give, router_routing.everything_is_finite), capability="token-ids")
def token_ids_have_a_say(subject: Subject) -> None:
    """The router asks for "token_T", the ids of its rows, and different ids give a different routing.

    Declare `token-ids` and `asks = frozenset({"token_T"})` together: `config validate` reads the first, models read the
    second.
    """
    router = router_of(subject)
    expect("token_T" in asks_of(router), "it does not ask for token_T")
    first, second = (router(spread(), token_T=torch.arange(TOKENS) + start) for start in (0, TOKENS))
    expect(not torch.equal(decision_of(first), decision_of(second)), "different ids give the same routing")


@law(
    ROUTER,
    needs=(it_asks_for_what_a_model_can_give, router_gradients.the_gradient_reaches_the_gate),
    capability="replayable",
)
def a_given_choice_is_weighed(subject: Subject) -> None:
    """The router asks for "expert_TK"; given experts appear in the routing, weighted as if it had chosen them.

    Skip only the choice: compute logits, scores and weights as usual, with their gradient.
    """
    router = router_of(subject)
    expect("expert_TK" in asks_of(router), "it does not ask for expert_TK")
    own = router(spread())
    given_TK = own.expert_TK.flip(-1)
    replayed = router(spread(), expert_TK=given_TK)
    expect(torch.equal(replayed.expert_TK, given_TK), "the experts are not the given ones")
    expect_same_routing(own, replayed, "given its own choice")
    other_TK = (own.expert_TK + 1) % EXPERTS
    replayed = router(spread(), expert_TK=other_TK)
    expect(torch.equal(replayed.expert_TK, other_TK), "the experts are not the given ones")
    expect_valid(replayed, EXPERTS, "given another choice")
    if subject.claims("trainable"):
        gradients = torch.autograd.grad(replayed.weight_TK[:, 0].sum(), trained(router), allow_unused=True)
        expect(any(each is not None and each.any() for each in gradients), "the weights have no gradient")
