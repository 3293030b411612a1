# pyright: basic
"""Laws of balancing losses: a `Routing` and a mask to a scalar that the training loop weighs and adds.

What is held against a loss here is one layer of one forward pass. Tests of gradients go from the loss to the logits.

Shape suffixes: T tokens, K slots a token, E experts.
"""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from penstock.hooks.testing.law import NotApplicable, Subject, expect, law, laws_in
from penstock.hooks.testing.laws.loads import even, logits, routing_of, towards_one_pair
from penstock.hooks.testing.laws.routings import EXPERTS, TOKENS, expect_same_bits, generators_left_alone, over, seeded

CAPABILITIES: dict[str, str] = {
    "additive": "the loss of a batch is the mean of its parts' losses, weighted by their tokens",
    "compilable": "torch.compile takes the loss as one graph",
    "counts-choices": "the load is that of the experts that were really chosen, selection bias included",
    "counts-dropped": "of the choices that count, those that capacity turned away are some",
    "exact-gradient": "the gradient is the derivative, where the choice stays",
    "exact-in-fp64": "fp64 routings are computed in fp64",
    "expert-symmetric": "experts under other numbers cost the same",
    "load-balancing": "tokens that crowd into few experts cost more, and the gradient draws them away",
    "logit-regularizing": "larger logits cost more",
    "mean-over-tokens": "a batch that is there twice costs the same",
    "no-host-sync": "the loss reads no value of a tensor, and so never waits for the device",
    "one-at-balance": "an even load costs 1",
    "order-free": "tokens in another order cost the same",
}
LOSS = "balance-loss"


@law(LOSS)
def the_weight_is_that_of_the_settings(subject: Subject) -> None:
    """`weight` is a finite number of at least 0, and that of the settings where they have one.

    The training loop adds `weight * loss`: keep the setting as an attribute of that name.
    """
    weight = subject.build().weight
    number = isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0
    expect(number, f"the weight is {weight!r}")
    wanted = getattr(subject.choice().settings, "weight", weight)
    expect(weight == wanted, f"the weight is {weight}, and {wanted} in the settings")


@law(LOSS)
def a_loss_is_one_finite_number(subject: Subject) -> None:
    """The loss is an fp32 tensor without dimensions, and finite, for one token as for many, with a mask or without.

    Sum or average over tokens and experts, and divide by nothing that may be 0.
    """
    for logits_TE in (logits(), logits(1), even(), towards_one_pair(1.0)):
        tokens = len(logits_TE)
        for mask_T in (None, torch.ones(tokens, dtype=torch.bool)):
            loss = subject.build()(routing_of(logits_TE), mask_T)
            seen = f"the loss of {tokens} tokens is {loss!r}"
            expect(isinstance(loss, Tensor) and loss.shape == () and loss.dtype == torch.float32, seen)
            expect(bool(loss.isfinite()), seen)


NUMBER = (a_loss_is_one_finite_number,)


@law(LOSS, needs=NUMBER)
def extreme_logits_have_a_finite_loss(subject: Subject) -> None:
    """Logits of size 10,000, and logits that are all equal, have a finite loss.

    Use `logsumexp` and `log_softmax`, and add a small number to what you divide by.
    """
    for name, logits_TE in _extremes().items():
        loss = subject.build()(routing_of(logits_TE))
        expect(bool(loss.isfinite()), f"the loss of logits {name} is {float(loss)}")


@law(LOSS, needs=NUMBER)
def the_weight_is_left_to_the_training_loop(subject: Subject) -> None:
    """The loss does not depend on its weight.

    Return the bare penalty: multiplied here as well, a weight of 0.01 would act as 0.0001.
    """
    if not subject.has_field("weight"):
        raise NotApplicable("the loss has no setting weight")
    light, heavy = (subject.build({"weight": weight})(routing_of(logits())) for weight in (0.25, 0.5))
    _expect_close(light, heavy, "with twice the weight")


@law(LOSS, needs=NUMBER)
def asked_again_a_loss_is_the_same(subject: Subject) -> None:
    """The same routing has the same loss, bit for bit, whatever was asked before.

    Keep no running counts: the gradient would be that of other batches, and a resumed run another run.
    """
    loss, routing = subject.build(), routing_of(logits())
    first = loss(routing)
    loss(routing_of(towards_one_pair(1.0)))
    expect(torch.equal(first, loss(routing)), "asked again, the loss is another")


@law(LOSS, needs=NUMBER)
def the_routing_is_left_alone(subject: Subject) -> None:
    """The loss does not change the routing.

    Other losses and the load metrics see it next: use no in-place operation on its tensors.
    """
    routing = routing_of(logits())
    before = over(routing, torch.clone)
    subject.build()(routing, _every_other_token())
    expect_same_bits(before, routing, "after the loss")


@law(LOSS, needs=NUMBER)
def the_global_generators_are_left_alone(subject: Subject) -> None:
    """A loss draws from no global generator.

    A draw shifts all that comes after it: dropout, noise, the order of data.
    """
    loss = subject.build()
    with generators_left_alone("the loss"):
        loss(routing_of(logits()))


@law(LOSS, needs=NUMBER)
def a_copy_is_the_same_loss(subject: Subject) -> None:
    """A deep or pickled copy gives the same loss.

    Keep plain numbers as attributes, no lambdas.
    """
    loss, routing = subject.build(), routing_of(logits())
    for name, other in (("deep", copy.deepcopy(loss)), ("pickled", pickle.loads(pickle.dumps(loss)))):
        _expect_close(loss(routing), other(routing), f"of the {name} copy")


@law(LOSS, needs=NUMBER)
def a_mask_of_all_tokens_is_no_mask(subject: Subject) -> None:
    """A mask that counts every token changes nothing.

    Divide by the number of counted tokens in both cases.
    """
    loss, routing = subject.build(), routing_of(logits())
    _expect_close(loss(routing), loss(routing, torch.ones(TOKENS, dtype=torch.bool)), "with a mask of all tokens")


@law(LOSS, needs=NUMBER)
def padding_costs_nothing(subject: Subject) -> None:
    """Tokens that the mask leaves out change nothing: the loss is that of the others alone.

    Mask the counts, the means and the number of tokens alike.
    """
    loss, mask_T = subject.build(), _every_other_token()
    counted = logits()[mask_T]
    alone = loss(routing_of(counted), mask_T[mask_T])
    for seed in (6, 7):
        padded_TE = logits(seed=seed).masked_scatter(mask_T.unsqueeze(-1), counted)
        _expect_close(alone, loss(routing_of(padded_TE), mask_T), "with padding between the tokens")


@law(LOSS, needs=NUMBER)
def nothing_flows_back_to_padding(subject: Subject) -> None:
    """The gradient of the loss is 0 for tokens that the mask leaves out.

    Select with `where` or by multiplying with the mask, before anything is summed.
    """
    mask_T = _every_other_token()
    largest = float(_gradient(subject.build(), logits(), mask_T)[~mask_T].abs().max())
    expect(largest == 0, f"padding has a gradient of up to {largest:.3g}")


@law(LOSS, needs=(nothing_flows_back_to_padding,))
def a_batch_of_padding_costs_nothing(subject: Subject) -> None:
    """Where no token counts, the loss and its gradient are 0.

    A rank may hold nothing but padding: divide by at least 1.
    """
    none_T = torch.zeros(TOKENS, dtype=torch.bool)
    loss = subject.build()
    expect(float(loss(routing_of(logits()), none_T)) == 0, f"the loss is {float(loss(routing_of(logits()), none_T))}")
    expect(not bool(_gradient(loss, logits(), none_T).any()), "the gradient is not 0")


@law(LOSS, needs=NUMBER)
def a_batch_without_tokens_costs_nothing(subject: Subject) -> None:
    """The loss of no tokens is 0.

    Divide by at least 1, and take no maximum over tokens.
    """
    loss = float(subject.build()(routing_of(logits(0))))
    expect(loss == 0, f"the loss is {loss}")


@law(LOSS, needs=NUMBER)
def empty_slots_cost_nothing(subject: Subject) -> None:
    """Which expert an empty slot names changes nothing.

    Count `kept_TK`, with `dropped_TK` or without; a slot that is neither was never chosen.
    """
    routing = routing_of(logits())
    kept_TK = torch.arange(2 * TOKENS).view(TOKENS, 2) % 3 > 0
    routing = replace(routing, weight_TK=routing.weight_TK.masked_fill(~kept_TK, 0.0), kept_TK=kept_TK)
    first, second = (
        subject.build()(replace(routing, expert_TK=torch.where(kept_TK, routing.expert_TK, expert)))
        for expert in (0, EXPERTS - 1)
    )
    _expect_close(first, second, "with other experts in the empty slots")


@law(LOSS, needs=NUMBER)
def the_gradient_reaches_the_logits(subject: Subject) -> None:
    """The loss has a finite gradient that reaches the logits and is not 0 where a load is uneven.

    Counts have no gradient: multiply them by scores, and detach no score.
    """
    logits_TE = towards_one_pair(0.5).requires_grad_()
    loss = subject.build()(routing_of(logits_TE))
    expect(loss.requires_grad, "the loss has no gradient")
    gradient_TE = _gradient(subject.build(), logits_TE)
    expect(bool(gradient_TE.isfinite().all()), "the gradient is not finite")
    expect(bool(gradient_TE.any()), "the gradient is 0")


GRADIENT = (the_gradient_reaches_the_logits,)


@law(LOSS, needs=(*GRADIENT, extreme_logits_have_a_finite_loss))
def gradients_stay_finite(subject: Subject) -> None:
    """The gradient is finite for extreme logits and for ties.

    The root of a variance has an infinite slope at 0: add a small number under it.
    """
    for name, logits_TE in _extremes().items():
        finite = bool(_gradient(subject.build(), logits_TE).isfinite().all())
        expect(finite, f"the gradient of logits {name} is not finite")


@law(LOSS, needs=GRADIENT, capability="exact-gradient")
def the_gradient_is_the_derivative(subject: Subject) -> None:
    """Along its own direction the gradient is the finite difference, where the choice stays.

    Estimators differ on purpose: do not declare `exact-gradient` for them.
    """
    loss, routing = subject.build(), routing_of(towards_one_pair(0.5))
    uphill_TE = _gradient(loss, routing.logits_TE)
    step_TE = 0.1 * uphill_TE / uphill_TE.norm()
    ahead, behind = (
        loss(routing_of(routing.logits_TE + sign * step_TE, expert_TK=routing.expert_TK)) for sign in (1, -1)
    )
    measured, derived = float(ahead - behind), float(2 * (uphill_TE * step_TE).sum())
    expect(abs(measured - derived) <= 0.02 * derived, f"a rise of {measured:.4g}, and {derived:.4g} by gradient")


@law(LOSS, needs=NUMBER, capability="exact-in-fp64")
def fp64_routings_are_computed_in_fp64(subject: Subject) -> None:
    """The loss of an fp64 routing is fp64, and so smooth that a step of 1e-6 can be seen in it.

    Convert to the type of the scores, and not by `.float()`: gradients are checked in fp64.
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


@law(LOSS, needs=NUMBER, capability="load-balancing")
def crowding_costs_more(subject: Subject) -> None:
    """The loss grows as more tokens go to the same experts, and is least for an even load.

    The logits are the same but for the numbers of the experts. A loss of something else does not declare
    `load-balancing`.
    """
    loss = subject.build()
    losses = [float(loss(routing_of(towards_one_pair(share)))) for share in (0.0, 0.25, 0.5, 1.0)]
    seen = f"with 0, 25, 50 and 100 % of the tokens in the same experts, the loss is {losses}"
    rises = [later - earlier for earlier, later in pairwise(losses)]
    expect(min(rises) > 1e-4 * max(map(abs, losses)), seen)


@law(LOSS, needs=(*GRADIENT, crowding_costs_more))
def the_gradient_draws_tokens_away_from_crowded_experts(subject: Subject) -> None:
    """A step against the gradient lowers the logits of crowded experts and raises those of others.

    A gradient of the wrong sign trains without complaint: compare it with finite differences of your own.
    """
    if not subject.claims("load-balancing"):
        raise NotApplicable("the loss does not balance the load")
    slope_E = _gradient(subject.build(), towards_one_pair(0.5)).sum(dim=0)
    crowded, others = float(slope_E[:2].min()), float(slope_E[2:].mean())
    expect(crowded > 0 > others, f"the slope is {crowded:.3g} for crowded experts, {others:.3g} for others")


@law(LOSS, needs=NUMBER, capability="counts-choices")
def the_choice_that_was_made_counts(subject: Subject) -> None:
    """With the same scores, another choice is another loss: the load is counted from `expert_TK`.

    Do not choose again from the scores: without the selection bias that measures loads that never happened.
    """
    routing = routing_of(towards_one_pair(0.5))
    elsewhere = replace(routing, expert_TK=(routing.expert_TK + 5) % EXPERTS)
    first, second = (float(subject.build()(each)) for each in (routing, elsewhere))
    expect(abs(first - second) > 1e-4 * abs(first), f"the loss of another choice is {second} as well")


@law(LOSS, needs=(the_choice_that_was_made_counts,), capability="counts-dropped")
def choices_that_were_turned_away_count(subject: Subject) -> None:
    """A choice counts whether capacity turned it away or not.

    Counted after drops, an expert that overflows looks no fuller than its capacity. A loss that means that, or that
    counts no choices, does not declare `counts-dropped`.
    """
    expect(subject.claims("counts-choices"), "no choice counts")
    routing = routing_of(towards_one_pair(0.5))
    kept_TK = torch.arange(TOKENS).unsqueeze(-1).expand(-1, 2) % 3 > 0
    dropped = replace(routing, weight_TK=routing.weight_TK * kept_TK, kept_TK=kept_TK, dropped_TK=~kept_TK)
    _expect_close(subject.build()(routing), subject.build()(dropped), "where slots are dropped")


@law(LOSS, needs=NUMBER, capability="logit-regularizing")
def larger_logits_cost_more(subject: Subject) -> None:
    """The loss grows as the logits grow, together or apart.

    Penalise `logsumexp`, or the squares of the logits. Losses that look at scores alone do not declare this.
    """
    loss, logits_TE = subject.build(), logits()
    for name, batches in {
        "plus 5, 10 and 20": [logits_TE + shift for shift in (5, 10, 20)],
        "times 5, 10 and 20": [logits_TE * factor for factor in (5, 10, 20)],
    }.items():
        losses = [float(loss(routing_of(each))) for each in batches]
        expect(losses[0] < losses[1] < losses[2], f"logits {name} have the losses {losses}")


@law(LOSS, needs=NUMBER, capability="one-at-balance")
def an_even_load_costs_one(subject: Subject) -> None:
    """The loss of an even load is 1, for any number of experts, tokens and experts a token.

    Multiply by the number of experts, and divide by those of tokens and choices: weights then mean the same anywhere.
    """
    for tokens, experts, k in ((32, 16, 2), (32, 8, 1), (48, 4, 3), (4, 4, 4)):
        loss = float(subject.build()(routing_of(even(tokens, experts), k)))
        expect(abs(loss - 1) <= 1e-4, f"it is {loss} for {tokens} tokens that go to {k} of {experts} experts each")


@law(LOSS, needs=NUMBER, capability="mean-over-tokens")
def a_batch_that_is_there_twice_costs_the_same(subject: Subject) -> None:
    """The loss of a batch that is there twice is that of the batch.

    Divide by the number of counted tokens: with a sum, the weight would have to change with the batch.
    """
    loss, logits_TE = subject.build(), logits()
    _expect_close(loss(routing_of(logits_TE)), loss(routing_of(logits_TE.repeat(2, 1))), "there twice")


@law(LOSS, needs=NUMBER, capability="additive")
def the_parts_of_a_batch_add_up(subject: Subject) -> None:
    """The loss of a batch is the mean of the losses of its parts, weighted by their tokens.

    What multiplies two means over tokens, as load and score, is not additive: it needs the counts of the whole batch.
    """
    loss = subject.build()
    for logits_TE in (towards_one_pair(0.5), logits()):  # parts that crowd alike, and parts that do not
        for cut in (1, TOKENS // 4):
            parts_TE = logits_TE.split([cut, TOKENS - cut])
            parts = [float(loss(routing_of(part_TE))) * len(part_TE) for part_TE in parts_TE]
            _expect_close(loss(routing_of(logits_TE)), torch.tensor(sum(parts) / TOKENS), f"cut after {cut} tokens")


@law(LOSS, needs=NUMBER, capability="expert-symmetric")
def experts_under_other_numbers_cost_the_same(subject: Subject) -> None:
    """The loss does not depend on which expert has which number.

    Treat all experts alike; where they differ in size or place, do not declare `expert-symmetric`.
    """
    order_E = torch.randperm(EXPERTS, generator=torch.Generator().manual_seed(3))
    for logits_TE in (logits(), towards_one_pair(0.5)):
        loss = subject.build()
        _expect_close(loss(routing_of(logits_TE)), loss(routing_of(logits_TE[:, order_E])), "with experts renumbered")


@law(LOSS, needs=NUMBER, capability="order-free")
def tokens_in_another_order_cost_the_same(subject: Subject) -> None:
    """The loss does not depend on the order of the tokens.

    Tokens come flattened over sequences: their neighbours and numbers mean nothing here.
    """
    order_T = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(3))
    for logits_TE in (logits(), towards_one_pair(0.5)):
        loss = subject.build()
        _expect_close(loss(routing_of(logits_TE)), loss(routing_of(logits_TE[order_T])), "in another order")


@law(LOSS, needs=NUMBER)
def autocast_changes_nothing(subject: Subject) -> None:
    """Under autocast the loss is the same.

    Write sums of products with `*` and `sum`: autocast takes matrix products in bf16.
    """
    loss, routing = subject.build(), routing_of(logits())
    plain = loss(routing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _expect_close(plain, loss(routing), "under autocast")


@law(LOSS, needs=NUMBER, capability="no-host-sync")
def no_value_is_read_from_the_device(subject: Subject) -> None:
    """The loss works on the meta device, where no value can be read.

    `.item()`, `bincount`, `nonzero()` and indexing by a mask wait for the device; `scatter_add` and `where` do not.
    """
    routing = over(routing_of(logits()), lambda tensor: tensor.to("meta"))
    expect(subject.build()(routing, _every_other_token().to("meta")).is_meta, "the loss comes from another device")


@law(LOSS, needs=NUMBER, capability="compilable")
def it_compiles_as_one_graph(subject: Subject) -> None:
    """`torch.compile(fullgraph=True)` takes the loss, and it is as before.

    Keep Python branches on the values of tensors out of it.
    """
    loss, routing = subject.build(), routing_of(logits())
    torch.compiler.reset()
    try:
        compiled = torch.compile(lambda given: loss(given), fullgraph=True, backend="eager")
        _expect_close(loss(routing), seeded(lambda: compiled(routing)), "compiled")
    finally:
        torch.compiler.reset()


def _gradient(loss: Any, logits_TE: Tensor, mask_T: Tensor | None = None) -> Tensor:
    """Of the loss by the logits; 0 where there is none."""
    leaf_TE = logits_TE.detach().clone().requires_grad_()
    value = loss(routing_of(leaf_TE), mask_T)
    if not value.requires_grad:
        return torch.zeros_like(leaf_TE)
    (gradient_TE,) = torch.autograd.grad(value, leaf_TE, allow_unused=True)
    return torch.zeros_like(leaf_TE) if gradient_TE is None else gradient_TE


def _extremes() -> dict[str, Tensor]:
    return {"times 1e4": 1e4 * logits(), "plus 1e4": 1e4 + logits(), "of 0": torch.zeros(TOKENS, EXPERTS)}


def _every_other_token() -> Tensor:
    return torch.arange(TOKENS) % 2 == 0


def _expect_close(first: Tensor, second: Tensor, when: str) -> None:
    one, other = float(first), float(second)
    expect(abs(one - other) <= 1e-5 * max(abs(one), abs(other)), f"{when} the loss is {other:.8g}, and {one:.8g} else")


LAWS = laws_in(globals())
