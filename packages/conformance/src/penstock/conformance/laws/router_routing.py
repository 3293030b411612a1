# pyright: basic
"""Laws of routers: what a `Routing` holds, whatever the hidden states.

Shape suffixes: T tokens, K slots a token, E experts, D model width.
"""

from __future__ import annotations

import torch
from torch import nn

from penstock.conformance.law import Subject, expect, law
from penstock.conformance.laws.routings import (
    EXPERTS,
    HIDDEN_SIZE,
    TOKENS,
    chosen_of,
    crowded,
    dropped_of,
    expect_shapes,
    expect_valid,
    kept_of,
    router_of,
    spread,
)

ROUTER = "router"


@law(ROUTER)
def it_is_a_module_that_states_its_sizes(subject: Subject) -> None:
    """A router is a torch module with the attributes `experts`, `k` and `e_score_correction_bias`.

    Subclass `torch.nn.Module`. `experts` is the constructor argument, `k` is between 1 and `experts`, and
    `e_score_correction_bias` is None for a router without a selection bias.
    """
    router = router_of(subject)
    expect(isinstance(router, nn.Module), f"a {type(router).__name__} is not a torch.nn.Module")
    expect(router.experts == EXPERTS, f"built with {EXPERTS} experts, it states {router.experts}")
    expect(isinstance(router.k, int) and 1 <= router.k <= EXPERTS, f"k is {router.k!r}")
    expect(hasattr(router, "e_score_correction_bias"), "it has no attribute e_score_correction_bias")


@law(ROUTER, needs=(it_is_a_module_that_states_its_sizes,))
def a_routing_has_the_shapes_and_types_of_the_contract(subject: Subject) -> None:
    """The result is a `Routing` of int64 experts [T, K] and fp32 weights [T, K], logits and scores [T, E].

    K is the router's `k`, except that it may vary by batch if `kept_TK` marks empty slots. Compute logits as
    `linear(hidden_TD.float(), weight.float())`.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), spread(1)):
        expect_shapes(router(hidden_TD), router, len(hidden_TD))


@law(ROUTER, needs=(a_routing_has_the_shapes_and_types_of_the_contract,))
def chosen_experts_exist(subject: Subject) -> None:
    """Every expert index is between 0 and `experts` - 1.

    Empty slots need a valid index too: use 0, not -1.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        expert_TK = router(hidden_TD).expert_TK
        lowest, highest = int(expert_TK.min()), int(expert_TK.max())
        expect(lowest >= 0 and highest < EXPERTS, f"experts {lowest} to {highest} of {EXPERTS} are named")


@law(ROUTER, needs=(chosen_experts_exist,))
def the_experts_of_a_token_are_all_different(subject: Subject) -> None:
    """A token chooses each expert at most once.

    Take the `k` highest in one `topk`, or mask chosen experts before choosing again.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        routing = router(hidden_TD)
        used_TK = kept_of(routing) | dropped_of(routing)
        distinct = int(chosen_of(routing).sum())
        expect(distinct == int(used_TK.sum()), f"{int(used_TK.sum())} slots hold {distinct} different choices")


@law(ROUTER, needs=(the_experts_of_a_token_are_all_different,))
def everything_is_finite(subject: Subject) -> None:
    """Weights, logits and scores are finite numbers.

    Apply -inf masks only for the choice; `score_TE` is the affinity before masking.
    """
    routing = router_of(subject)(spread())
    for name in ("weight_TK", "logits_TE", "score_TE"):
        expect(bool(getattr(routing, name).isfinite().all()), f"{name} has values that are not finite")


@law(ROUTER, needs=(everything_is_finite,))
def weights_are_not_negative(subject: Subject) -> None:
    """No weight is negative.

    Take weights from scores (sigmoid, softmax), not from logits.
    """
    lowest = float(router_of(subject)(spread()).weight_TK.detach().min())
    expect(lowest >= 0, f"a weight is {lowest:.3g}")


@law(ROUTER, needs=(weights_are_not_negative,), capability="normalized")
def weights_sum_to_the_scale(subject: Subject) -> None:
    """The weights of a token sum to 1, or to the setting `scale`. If there is a setting `normalize`, this holds when it
    is on.

    Divide by the sum over the chosen experts, after the choice. Tokens with dropped or empty slots are not checked.
    """
    changes = {"normalize": True} if subject.has_field("normalize") else {}
    routing = router_of(subject, changes)(spread())
    total = getattr(subject.choice(**changes).settings, "scale", 1.0)
    whole_T = kept_of(routing).any(dim=-1) & ~dropped_of(routing).any(dim=-1)
    sums = routing.weight_TK[whole_T].sum(dim=-1)
    expect(len(sums), "no token keeps what it chose")
    worst = float((sums.detach() - total).abs().max())
    expect(worst <= 1e-4 * abs(total), f"sums are up to {worst:.3g} away from {total}")


@law(ROUTER, needs=(weights_are_not_negative,))
def extreme_hidden_states_are_routed(subject: Subject) -> None:
    """Hidden states of size 10,000 give valid experts and finite weights.

    Subtract the largest logit before `exp`, and add a small number to what you divide by.
    """
    router = router_of(subject)
    for factor in (1e4, -1e4):
        expect_valid(router(factor * crowded()), EXPERTS, f"hidden states times {factor:g}")


@law(ROUTER, needs=(weights_are_not_negative,))
def ties_are_routed(subject: Subject) -> None:
    """Equal scores give valid experts and finite weights.

    Choose with `topk`, which breaks ties; a threshold does not.
    """
    router = router_of(subject)
    same_TD = spread(1).expand(TOKENS, -1)
    for name, hidden_TD in (("hidden states of 0", torch.zeros(TOKENS, HIDDEN_SIZE)), ("equal hidden states", same_TD)):
        expect_valid(router(hidden_TD), EXPERTS, f"with {name}")


@law(ROUTER, needs=(weights_are_not_negative,))
def one_token_is_routed(subject: Subject) -> None:
    """A single token gets valid experts and finite weights.

    Decoding routes one token at a time: do not `squeeze()` dimensions or divide by a standard deviation.
    """
    expect_valid(router_of(subject)(spread(1)), EXPERTS, "for one token")
