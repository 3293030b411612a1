# pyright: basic
"""Laws of balancing losses: which loads cost more than others, and which cost the same.

Shape suffixes: T tokens, K slots a token, E experts.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch

from penstock.conformance.law import NotApplicable, Subject, expect, law
from penstock.conformance.laws.balance_loss_form import LOSS, NUMBER
from penstock.conformance.laws.balance_loss_gradients import GRADIENT
from penstock.conformance.laws.losses import even, expect_close, gradient_of, logits, routing_of, towards_one_pair
from penstock.conformance.laws.routings import EXPERTS, TOKENS


@law(LOSS, needs=NUMBER, capability="load-balancing")
def crowding_costs_more(subject: Subject) -> None:
    """The loss grows as more tokens go to the same experts, and is lowest for an even load.

    The test logits differ only in which experts they favour. A loss with another purpose does not declare
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

    A gradient of the wrong sign raises no error: compare yours with finite differences.
    """
    if not subject.claims("load-balancing"):
        raise NotApplicable("the loss does not balance the load")
    slope_E = gradient_of(subject.build(), towards_one_pair(0.5)).sum(dim=0)
    crowded, others = float(slope_E[:2].min()), float(slope_E[2:].mean())
    expect(crowded > 0 > others, f"the slope is {crowded:.3g} for crowded experts, {others:.3g} for others")


@law(LOSS, needs=NUMBER, capability="counts-choices")
def the_choice_that_was_made_counts(subject: Subject) -> None:
    """The load is counted from `expert_TK`: with the same scores, a different choice gives a different loss.

    Do not recompute the choice from the scores: without the selection bias you count loads that never happened.
    """
    routing = routing_of(towards_one_pair(0.5))
    elsewhere = replace(routing, expert_TK=(routing.expert_TK + 5) % EXPERTS)
    first, second = (float(subject.build()(each)) for each in (routing, elsewhere))
    expect(abs(first - second) > 1e-4 * abs(first), f"the loss of another choice is {second} as well")


@law(LOSS, needs=(the_choice_that_was_made_counts,), capability="counts-dropped")
def choices_that_were_turned_away_count(subject: Subject) -> None:
    """A choice counts even if capacity turned it away.

    If drops are not counted, an overflowing expert looks only as full as its capacity. A loss for which that is
    intended, or that counts no choices, does not declare `counts-dropped`.
    """
    expect(subject.claims("counts-choices"), "no choice counts")
    routing = routing_of(towards_one_pair(0.5))
    kept_TK = torch.arange(TOKENS).unsqueeze(-1).expand(-1, 2) % 3 > 0
    dropped = replace(routing, weight_TK=routing.weight_TK * kept_TK, kept_TK=kept_TK, dropped_TK=~kept_TK)
    expect_close(subject.build()(routing), subject.build()(dropped), "where slots are dropped")


@law(LOSS, needs=NUMBER, capability="logit-regularizing")
def larger_logits_cost_more(subject: Subject) -> None:
    """The loss grows as the logits grow, whether they are shifted or scaled.

    Penalise `logsumexp`, or the squared logits. Losses that use only scores do not declare this.
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
    """The loss of an even load is 1, for any number of experts, tokens and experts per token.

    Multiply by the number of experts and divide by the numbers of tokens and choices, so that a weight means the same
    everywhere.
    """
    for tokens, experts, k in ((32, 16, 2), (32, 8, 1), (48, 4, 3), (4, 4, 4)):
        loss = float(subject.build()(routing_of(even(tokens, experts), k)))
        expect(abs(loss - 1) <= 1e-4, f"it is {loss} for {tokens} tokens that go to {k} of {experts} experts each")


@law(LOSS, needs=NUMBER, capability="mean-over-tokens")
def a_batch_that_is_there_twice_costs_the_same(subject: Subject) -> None:
    """A batch repeated twice has the same loss as the batch.

    Divide by the number of counted tokens: with a sum, the weight would depend on the batch size.
    """
    loss, logits_TE = subject.build(), logits()
    expect_close(loss(routing_of(logits_TE)), loss(routing_of(logits_TE.repeat(2, 1))), "there twice")


@law(LOSS, needs=NUMBER, capability="additive")
def the_parts_of_a_batch_add_up(subject: Subject) -> None:
    """The loss of a batch is the mean of the losses of its parts, weighted by their tokens.

    A product of two means over tokens, such as load times score, is not additive: it needs the counts of the whole
    batch.
    """
    loss = subject.build()
    for logits_TE in (towards_one_pair(0.5), logits()):  # parts that crowd alike, and parts that do not
        for cut in (1, TOKENS // 4):
            parts_TE = logits_TE.split([cut, TOKENS - cut])
            parts = [float(loss(routing_of(part_TE))) * len(part_TE) for part_TE in parts_TE]
            expect_close(loss(routing_of(logits_TE)), torch.tensor(sum(parts) / TOKENS), f"cut after {cut} tokens")


@law(LOSS, needs=NUMBER, capability="expert-symmetric")
def experts_under_other_numbers_cost_the_same(subject: Subject) -> None:
    """Renumbering the experts does not change the loss.

    Treat all experts alike; if they differ in size or placement, do not declare `expert-symmetric`.
    """
    order_E = torch.randperm(EXPERTS, generator=torch.Generator().manual_seed(3))
    for logits_TE in (logits(), towards_one_pair(0.5)):
        loss = subject.build()
        expect_close(loss(routing_of(logits_TE)), loss(routing_of(logits_TE[:, order_E])), "with experts renumbered")


@law(LOSS, needs=NUMBER, capability="order-free")
def tokens_in_another_order_cost_the_same(subject: Subject) -> None:
    """The loss does not depend on the order of the tokens.

    Tokens are flattened over sequences: their order and indices have no meaning here.
    """
    order_T = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(3))
    for logits_TE in (logits(), towards_one_pair(0.5)):
        loss = subject.build()
        expect_close(loss(routing_of(logits_TE)), loss(routing_of(logits_TE[order_T])), "in another order")
