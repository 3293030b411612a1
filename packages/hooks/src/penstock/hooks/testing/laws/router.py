# pyright: basic
"""Laws of routers: hidden states [T, D] to a `Routing`.

Routers are held to them in evaluation mode, with the parameters that a seed gives; where training mode counts, the law
says so. Slots that a router drops or leaves empty (`kept_TK`, `dropped_TK`) are told apart from those that compute.

Shape suffixes: T tokens, K slots a token, E experts, D model width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from penstock.hooks.contracts import Routing
from penstock.hooks.problems import ProblemError
from penstock.hooks.testing.law import NotApplicable, Subject, expect, law, laws_in
from penstock.hooks.testing.laws.routings import (
    EXPERTS,
    HIDDEN_SIZE,
    TOKENS,
    chosen_of,
    crowded,
    decision_of,
    dropped_of,
    expect_others_left_alone,
    expect_same_bits,
    expect_same_routing,
    expect_valid,
    generators_left_alone,
    kept_of,
    other_generators,
    router_of,
    rows_of,
    seeded,
    spread,
    weight_of,
)

CAPABILITIES: dict[str, str] = {
    "batch-invariant": "a token's routing does not depend on the other tokens of the batch",
    "causal": "a token's routing does not depend on the tokens after it",
    "compilable": "torch.compile takes the router as one graph",
    "deterministic": "a forward pass in training mode repeats bit for bit",
    "dropless": "every slot computes, whatever the load",
    "empty-batches": "a batch without tokens is routed",
    "exact-gradient": "the gradient of the weights is their derivative, where the choice stays",
    "no-host-sync": "a forward pass reads no value of a tensor, and so never waits for the device",
    "normalized": "the weights of a token sum to 1, or to the setting `scale`",
    "permutation-equivariant": "tokens in another order are routed as before",
    "same-in-training": "training mode routes as evaluation mode does",
    "trainable": "the gradient of the weights reaches a parameter",
}
ROUTER = "router"


@law(ROUTER)
def it_is_a_module_that_states_its_sizes(subject: Subject) -> None:
    """A router is a torch module with `experts`, `k` and `e_score_correction_bias`.

    Derive it from `torch.nn.Module`; `experts` is the number that it is built with, `k` is between 1 and `experts`, and
    `e_score_correction_bias` is None where the router has none.
    """
    router = router_of(subject)
    expect(isinstance(router, nn.Module), f"a {type(router).__name__} is no torch.nn.Module")
    expect(router.experts == EXPERTS, f"built with {EXPERTS} experts, it states {router.experts}")
    expect(isinstance(router.k, int) and 1 <= router.k <= EXPERTS, f"k is {router.k!r}")
    expect(hasattr(router, "e_score_correction_bias"), "it has no attribute e_score_correction_bias")


@law(ROUTER, needs=(it_is_a_module_that_states_its_sizes,))
def a_routing_has_the_shapes_and_types_of_the_contract(subject: Subject) -> None:
    """The result is a `Routing` of int64 experts [T, K] and fp32 weights [T, K], logits and scores [T, E].

    K is the router's `k`, unless `kept_TK` and `dropped_TK` tell that some slots are empty. Compute logits as
    `linear(hidden_TD.float(), weight.float())`.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), spread(1)):
        _expect_shapes(router(hidden_TD), router, len(hidden_TD))


def _expect_shapes(routing: Routing, router: Any, tokens: int) -> None:
    expect(isinstance(routing, Routing), f"the result is a {type(routing).__name__}")
    slots = routing.expert_TK.shape[-1]
    empty = not bool((kept_of(routing) | dropped_of(routing)).all())
    expect(empty or slots == router.k, f"{slots} experts a token, and k is {router.k}")
    wanted = {
        "expert_TK": ((tokens, slots), torch.int64),
        "weight_TK": ((tokens, slots), torch.float32),
        "logits_TE": ((tokens, router.experts), torch.float32),
        "score_TE": ((tokens, router.experts), torch.float32),
    }
    for name, (shape, dtype) in wanted.items():
        tensor = getattr(routing, name)
        seen = f"{name} of {tokens} tokens is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}"
        expect(tuple(tensor.shape) == shape and tensor.dtype == dtype, seen)


@law(ROUTER, needs=(a_routing_has_the_shapes_and_types_of_the_contract,))
def chosen_experts_exist(subject: Subject) -> None:
    """Every named expert is one of 0 to `experts` - 1.

    Empty slots name a valid expert too: 0 will do, -1 will not.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        expert_TK = router(hidden_TD).expert_TK
        lowest, highest = int(expert_TK.min()), int(expert_TK.max())
        expect(0 <= lowest and highest < EXPERTS, f"experts {lowest} to {highest} of {EXPERTS} are named")


@law(ROUTER, needs=(chosen_experts_exist,))
def the_experts_of_a_token_are_all_different(subject: Subject) -> None:
    """A token chooses an expert once.

    Take the `k` highest in one `topk`, or mask what was chosen before you choose again.
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

    Masks with -inf belong into the choice; `score_TE` is the affinity before it.
    """
    routing = router_of(subject)(spread())
    for name in ("weight_TK", "logits_TE", "score_TE"):
        expect(bool(getattr(routing, name).isfinite().all()), f"{name} has values that are not finite")


@law(ROUTER, needs=(everything_is_finite,))
def weights_are_not_negative(subject: Subject) -> None:
    """No weight is negative.

    Take weights from scores (sigmoid, softmax) and not from logits.
    """
    lowest = float(router_of(subject)(spread()).weight_TK.detach().min())
    expect(lowest >= 0, f"a weight is {lowest:.3g}")


@law(ROUTER, needs=(weights_are_not_negative,), capability="normalized")
def weights_sum_to_the_scale(subject: Subject) -> None:
    """Under default settings the weights of a token sum to 1, or to the setting `scale`.

    Divide by the sum over the chosen experts, after the choice. Tokens that lost a slot are not looked at.
    """
    changes = {"normalize": True} if subject.has_field("normalize") else {}
    routing = router_of(subject, changes)(spread())
    total = getattr(subject.choice(**changes).settings, "scale", 1.0)
    sums = routing.weight_TK[kept_of(routing).all(dim=-1)].sum(dim=-1)
    expect(len(sums), "no token keeps all its slots")
    worst = float((sums.detach() - total).abs().max())
    expect(worst <= 1e-4 * abs(total), f"sums are up to {worst:.3g} away from {total}")


@law(ROUTER, needs=(a_routing_has_the_shapes_and_types_of_the_contract,))
def slots_are_accounted_for(subject: Subject) -> None:
    """Every slot is kept, dropped or empty: `kept_TK` and `dropped_TK` are bool [T, K] and exclude each other.

    A slot whose expert turned the token away is dropped; one that was never chosen is neither.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        routing = router(hidden_TD)
        for name, slots in (("kept_TK", kept_of(routing)), ("dropped_TK", dropped_of(routing))):
            fits = slots.dtype == torch.bool and slots.shape == routing.expert_TK.shape
            expect(fits, f"{name} is {slots.dtype} {list(slots.shape)}")
        both = int((kept_of(routing) & dropped_of(routing)).sum())
        expect(both == 0, f"{both} slots are kept and dropped at once")


@law(ROUTER, needs=(slots_are_accounted_for, everything_is_finite))
def a_slot_that_is_not_kept_weighs_nothing(subject: Subject) -> None:
    """The weight of a slot that does not compute is 0.

    Zero the weights of dropped and empty slots: what combines outputs multiplies by them.
    """
    routing = _routing_with_lost_slots(router_of(subject))
    heaviest = float(routing.weight_TK[~kept_of(routing)].detach().abs().max())
    expect(heaviest == 0, f"a slot that is not kept weighs {heaviest:.3g}")


@law(ROUTER, needs=(a_slot_that_is_not_kept_weighs_nothing,))
def nothing_flows_back_through_a_slot_that_is_not_kept(subject: Subject) -> None:
    """The gradient of a slot that does not compute reaches neither parameters nor hidden states.

    Zero its weight with `masked_fill` or `where`, and not by a straight-through sum.
    """
    router = router_of(subject)
    hidden_TD = crowded().requires_grad_()
    routing = _routing_with_lost_slots(router, hidden_TD)
    lost = routing.weight_TK[~kept_of(routing)]
    if not lost.requires_grad:
        raise NotApplicable("the weights have no gradient")
    gradients = torch.autograd.grad(lost.sum(), [hidden_TD, *_trained(router)], allow_unused=True)
    largest = max((float(each.abs().max()) for each in gradients if each is not None), default=0.0)
    expect(largest == 0, f"slots that are not kept have a gradient of up to {largest:.3g}")


def _routing_with_lost_slots(router: Any, hidden_TD: Tensor | None = None) -> Routing:
    routing = router(crowded() if hidden_TD is None else hidden_TD)
    if bool(kept_of(routing).all()):
        raise NotApplicable("every slot is kept, although the tokens want the same experts")
    return routing


@law(ROUTER, needs=(slots_are_accounted_for,), capability="dropless")
def every_slot_is_kept(subject: Subject) -> None:
    """However crowded the experts, every slot computes.

    Experts without a capacity lose nothing; with one, do not declare `dropless`.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        lost = int((~kept_of(router(hidden_TD))).sum())
        expect(lost == 0, f"{lost} slots are not kept")


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

    Choose by `topk`, which breaks ties; comparing scores with a threshold does not.
    """
    router = router_of(subject)
    same_TD = spread(1).expand(TOKENS, -1)
    for name, hidden_TD in (("hidden states of 0", torch.zeros(TOKENS, HIDDEN_SIZE)), ("equal hidden states", same_TD)):
        expect_valid(router(hidden_TD), EXPERTS, f"with {name}")


@law(ROUTER, needs=(weights_are_not_negative,))
def one_token_is_routed(subject: Subject) -> None:
    """A single token gets valid experts and finite weights.

    Decoding routes one token at a time: `squeeze()` no dimension, divide by no standard deviation.
    """
    expect_valid(router_of(subject)(spread(1)), EXPERTS, "for one token")


@law(ROUTER, needs=(everything_is_finite,))
def a_seed_decides_the_parameters(subject: Subject) -> None:
    """Built under the same seed of torch, two routers are the same, and nothing else is drawn from.

    Initialise with `torch.nn.init`, and not with the generators of Python or numpy.
    """
    before = other_generators()
    first, second = router_of(subject).state_dict(), router_of(subject).state_dict()
    expect_others_left_alone(before, "the constructor")
    expect(first.keys() == second.keys(), "their states have other names")
    differing = [name for name in first if not torch.equal(first[name], second[name])]
    expect(not differing, f"built twice under one seed, {', '.join(differing)} differs")


@law(ROUTER, needs=(everything_is_finite,))
def the_bias_is_a_buffer_of_the_state(subject: Subject) -> None:
    """The selection bias is an fp32 buffer [E] without gradient, and part of `state_dict()`.

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

    bf16 holds 8 bits: steps of 0.001 on a bias near 1 would be lost. Put the fp32 bias back in `_apply`.
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

    Add `e_score_correction_bias` to the scores from which you choose.
    """
    for expert in (0, EXPERTS - 1):
        router = _biased_router(subject, 1000 * nn.functional.one_hot(torch.tensor(expert), EXPERTS).float())
        tokens = int(chosen_of(router(spread()))[:, expert].sum())
        expect(tokens == TOKENS, f"with a bias of 1000, expert {expert} is chosen by {tokens} of {TOKENS} tokens")


@law(ROUTER, needs=(the_bias_is_a_buffer_of_the_state, one_token_is_routed))
def the_bias_never_reaches_the_weights(subject: Subject) -> None:
    """As long as the choice stays, the bias changes no weight, logit or score.

    Gather the weights from the scores without bias: with it, routers train and balance, and are worse for it.
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


@law(ROUTER, needs=(the_bias_is_a_buffer_of_the_state, weights_are_not_negative))
def an_expert_with_a_bias_of_minus_infinity_is_never_chosen(subject: Subject) -> None:
    """A bias of -inf takes an expert out of service; the others are routed to with finite weights.

    Compare biased scores and nothing else; multiply none of them, as 0 times -inf is no number.
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


def _biased_router(subject: Subject, value_E: Tensor | None = None) -> Any:
    router = router_of(subject)
    if router.e_score_correction_bias is None:
        raise NotApplicable("the router has no selection bias")
    if value_E is not None:
        router.e_score_correction_bias.copy_(value_E)
    return router


@law(ROUTER, needs=(everything_is_finite,), capability="empty-batches")
def a_batch_without_tokens_is_routed(subject: Subject) -> None:
    """No tokens give empty tensors of the right shapes.

    A rank may get nothing but padding: take no maximum and no mean over tokens.
    """
    router = router_of(subject)
    routing = router(spread(0))
    expect(routing.expert_TK.shape[0] == 0 and routing.weight_TK.shape == routing.expert_TK.shape, "T is not 0")
    expect(tuple(routing.logits_TE.shape) == (0, EXPERTS), f"logits are {list(routing.logits_TE.shape)}")


@law(ROUTER, needs=(weights_are_not_negative,))
def every_k_that_is_accepted_works(subject: Subject) -> None:
    """k of 1, k of all experts and a single expert work, or are refused when the router is built.

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
        _expect_shapes(routing, router, TOKENS)
        expect(router.k == k, f"built with k={k}, it states {router.k}")
        expect_valid(routing, experts, f"with {k} of {experts} experts")


@law(ROUTER, needs=(everything_is_finite,), capability="permutation-equivariant")
def tokens_in_another_order_are_routed_as_before(subject: Subject) -> None:
    """The routing of permuted tokens is the permuted routing.

    Where a capacity is filled in the order of tokens, do not declare `permutation-equivariant`.
    """
    router = router_of(subject)
    order_T = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(3))
    for hidden_TD in (spread(), crowded()):
        expect_same_routing(rows_of(router(hidden_TD), order_T), router(hidden_TD[order_T]), "in another order")


@law(ROUTER, needs=(one_token_is_routed,), capability="batch-invariant")
def a_token_is_routed_alone_as_in_a_batch(subject: Subject) -> None:
    """A token's routing is the same alone and in any batch.

    What is taken over the batch (a capacity, a mean, an expert's choice of tokens) makes serving differ from training.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        together = router(hidden_TD)
        for token in (0, TOKENS // 2, TOKENS - 1):
            rows = slice(token, token + 1)
            expect_same_routing(router(hidden_TD[rows]), rows_of(together, rows), f"alone, token {token}")


@law(ROUTER, needs=(everything_is_finite,), capability="causal")
def later_tokens_change_nothing(subject: Subject) -> None:
    """The routing of a token does not depend on the tokens after it.

    Routers that let experts choose among the tokens of a sequence leak the future: do not declare `causal` for them.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        past = slice(0, TOKENS // 2)
        before = rows_of(router(hidden_TD), past)
        for factor in (4.0, -4.0, 0.0):
            changed_TD = torch.cat([hidden_TD[past], factor * hidden_TD[TOKENS // 2 :]])
            expect_same_routing(before, rows_of(router(changed_TD), past), f"with later tokens times {factor:g}")


@law(ROUTER, needs=(everything_is_finite,), capability="trainable")
def the_gradient_reaches_the_gate(subject: Subject) -> None:
    """In training mode the gradient of the weights reaches a parameter, and is finite.

    Do not detach the weights, and do not take them from the indices. One normalised weight a token is always 1, so a
    router with k=1 learns only where it does not normalise.
    """
    router = router_of(subject).train()
    weight_TE = weight_of(seeded(lambda: router(spread())))
    parameters = _trained(router)
    expect(weight_TE.requires_grad and parameters, "the weights have no gradient")
    value = (weight_TE * spread(TOKENS, seed=4)[:, :EXPERTS]).sum()
    gradients = [each for each in torch.autograd.grad(value, parameters, allow_unused=True) if each is not None]
    expect(all(bool(each.isfinite().all()) for each in gradients), "a gradient is not finite")
    expect(any(float(each.abs().max()) > 1e-6 for each in gradients), "every gradient is 0")


@law(ROUTER, needs=(the_gradient_reaches_the_gate, extreme_hidden_states_are_routed, ties_are_routed))
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
        for gradient in torch.autograd.grad(value, [hidden_TD, *_trained(router)], allow_unused=True):
            expect(gradient is None or bool(gradient.isfinite().all()), f"hidden states {name} have no finite gradient")


@law(ROUTER, needs=(the_gradient_reaches_the_gate,), capability="exact-gradient")
def the_gradient_is_the_derivative(subject: Subject) -> None:
    """Along its own direction the gradient of the weights is their finite difference, where the choice stays.

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


@law(ROUTER, needs=(everything_is_finite,))
def evaluation_repeats_bit_for_bit(subject: Subject) -> None:
    """In evaluation mode the same hidden states give the same bits.

    Add noise only where `self.training` holds, and keep no state between calls.
    """
    router = router_of(subject)
    first = router(spread())
    router(crowded())
    expect_same_bits(first, router(spread()), "asked again")


@law(ROUTER, needs=(evaluation_repeats_bit_for_bit,), capability="deterministic")
def training_repeats_bit_for_bit(subject: Subject) -> None:
    """In training mode the same hidden states give the same bits.

    Where noise is the point, do not declare `deterministic`.
    """
    router = router_of(subject).train()
    first = router(spread())
    router(crowded())
    expect_same_bits(first, router(spread()), "asked again")


@law(ROUTER, needs=(evaluation_repeats_bit_for_bit,), capability="same-in-training")
def training_routes_as_evaluation_does(subject: Subject) -> None:
    """Training and evaluation mode route alike.

    Noise, or another capacity in training, make the model that is evaluated another one: do not declare
    `same-in-training` where you want that.
    """
    router = router_of(subject)
    for hidden_TD in (spread(), crowded()):
        evaluated = router(hidden_TD)
        trained = seeded(lambda hidden_TD=hidden_TD: router.train()(hidden_TD))
        expect_same_routing(evaluated, trained, "in training")
        router.eval()


@law(ROUTER, needs=(everything_is_finite,))
def routing_leaves_the_global_generators_alone(subject: Subject) -> None:
    """Evaluation, and training that is deterministic, draw from no global generator.

    A draw shifts all that comes after it: dropout, the next layer's noise, the order of data.
    """
    router = router_of(subject)
    with generators_left_alone("evaluation"):
        router(spread())
    if subject.claims("deterministic"):
        with generators_left_alone("training"):
            router.train()(spread())


@law(ROUTER, needs=(a_seed_decides_the_parameters, evaluation_repeats_bit_for_bit))
def the_state_is_all_that_counts(subject: Subject) -> None:
    """A router that loads another's `state_dict()` routes as that one does.

    Register every tensor as a parameter or buffer; what is drawn in the constructor and not saved is lost on resume.
    """
    first, second = router_of(subject, seed=0), router_of(subject, seed=1)
    second.load_state_dict(first.state_dict())
    expect_same_bits(first(spread()), second(spread()), "after loading")


@law(ROUTER, needs=(evaluation_repeats_bit_for_bit,))
def a_deep_copy_is_a_router_of_its_own(subject: Subject) -> None:
    """A deep copy routes alike, and changing it leaves the original alone.

    Keep no tensor that has a gradient function, no closure over `self` and no shared cache as an attribute.
    """
    router = router_of(subject)
    before = router(spread())
    copied = copy.deepcopy(router)
    expect_same_bits(before, copied(spread()), "copied")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.neg_()
    expect_same_bits(before, router(spread()), "after the copy changed")


@law(ROUTER, needs=(a_seed_decides_the_parameters,))
def a_router_made_on_the_meta_device_can_be_initialized(subject: Subject) -> None:
    """Built on the meta device, emptied onto another and reset, a router is the one that is built there.

    `reset_parameters` fills every parameter and buffer, drawing as the constructor does. Large models begin on meta.
    """
    built = router_of(subject)
    if not hasattr(built, "reset_parameters"):
        raise NotApplicable("the router has no reset_parameters()")
    with torch.device("meta"):
        router = router_of(subject)
    router.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*router.parameters(), *router.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
    seeded(router.reset_parameters)
    made = router.state_dict()
    differing = [name for name, value in built.state_dict().items() if not torch.equal(value, made[name])]
    expect(not differing, f"after reset_parameters(), {', '.join(differing)} is not what the constructor makes")


@law(ROUTER, needs=(everything_is_finite,))
def hidden_states_are_left_alone(subject: Subject) -> None:
    """Routing does not change the hidden states.

    They go to the experts next: use no in-place operation on them, nor on a view of them.
    """
    router = router_of(subject)
    hidden_TD = spread()
    router(hidden_TD)
    expect(torch.equal(hidden_TD, spread()), "the hidden states are others afterwards")


@law(ROUTER, needs=(everything_is_finite,))
def hidden_states_of_any_floating_type_are_routed_in_fp32(subject: Subject) -> None:
    """bf16, fp16 and fp64 hidden states are routed as the same numbers in fp32 are.

    Convert before the product, `linear(hidden_TD.float(), weight.float())`: rounded logits send tokens elsewhere.
    """
    router = router_of(subject)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        hidden_TD = spread().to(torch.bfloat16).to(dtype)
        routing = router(hidden_TD)
        _expect_shapes(routing, router, TOKENS)
        expect_same_routing(router(hidden_TD.float()), routing, f"in {dtype}")


@law(ROUTER, needs=(hidden_states_of_any_floating_type_are_routed_in_fp32, a_seed_decides_the_parameters))
def a_router_that_was_cast_decides_in_fp32(subject: Subject) -> None:
    """A router that was cast to bf16 routes as its rounded parameters do in fp32.

    Convert the parameters where they are used: `linear(hidden_TD.float(), weight.float())`.
    """
    cast = router_of(subject).bfloat16()
    rounded = router_of(subject).bfloat16().float()
    hidden_TD = spread().bfloat16()
    routing = cast(hidden_TD)
    _expect_shapes(routing, cast, TOKENS)
    expect_same_routing(rounded(hidden_TD.float()), routing, "cast to bf16")


@law(ROUTER, needs=(everything_is_finite,))
def autocast_changes_nothing(subject: Subject) -> None:
    """Under autocast the routing is the same.

    Wrap the gate in `torch.autocast(device_type, enabled=False)`: autocast would take its product in bf16.
    """
    router = router_of(subject)
    plain = router(spread())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = router(spread())
    _expect_shapes(routing, router, TOKENS)
    expect_same_routing(plain, routing, "under autocast")


@law(ROUTER, needs=(everything_is_finite,), capability="no-host-sync")
def no_value_is_read_from_the_device(subject: Subject) -> None:
    """A forward pass works on the meta device, where no value can be read.

    `.item()`, `.tolist()`, `nonzero()`, indexing by a mask and `if tensor:` wait for the device; `where` and
    `masked_fill` do not. Make new tensors on the device of the hidden states.
    """
    routing = router_of(subject).to("meta")(spread().to("meta"))
    expect(routing.weight_TK.device.type == "meta", "the weights come from another device")


@law(ROUTER, needs=(everything_is_finite,), capability="compilable")
def it_compiles_as_one_graph(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` takes the router, and it routes as before.

    Keep Python branches on the values of tensors out of `forward`.
    """
    router = router_of(subject)
    torch.compiler.reset()
    try:
        compiled = torch.compile(router, fullgraph=True, backend="eager")
        expect_same_routing(router(spread()), compiled(spread()), "compiled")
    finally:
        torch.compiler.reset()


@law(ROUTER, needs=(the_gradient_reaches_the_gate, slots_are_accounted_for))
def training_finds_the_experts_that_pay(subject: Subject) -> None:
    """Where every expert pays another reward, 30 steps of Adam raise the reward, and several experts stay in use.

    A gradient of the wrong sign trains without complaint: compare it with finite differences of your own.
    """
    if not subject.claims("trainable"):
        raise NotApplicable("the router is not trainable")
    router = router_of(subject).train()
    reward_TE = spread(TOKENS, seed=5)[:, :EXPERTS]
    optimizer = torch.optim.Adam(_trained(router), lr=0.02)
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


def _trained(router: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in router.parameters() if parameter.requires_grad]


LAWS = laws_in(globals())
