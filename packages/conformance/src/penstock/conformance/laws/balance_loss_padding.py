# pyright: basic
"""Laws of balancing losses: tokens that a mask leaves out, slots that are empty, and batches of nothing.

Shape suffixes: T tokens, K slots a token, E experts.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from penstock.conformance.law import Subject, expect, law
from penstock.conformance.laws.balance_loss_form import LOSS, NUMBER
from penstock.conformance.laws.losses import every_other_token, expect_close, gradient_of, logits, routing_of
from penstock.conformance.laws.routings import EXPERTS, TOKENS


@law(LOSS, needs=NUMBER)
def a_mask_of_all_tokens_is_no_mask(subject: Subject) -> None:
    """A mask that counts every token changes nothing.

    Divide by the number of counted tokens with and without a mask.
    """
    loss, routing = subject.build(), routing_of(logits())
    expect_close(loss(routing), loss(routing, torch.ones(TOKENS, dtype=torch.bool)), "with a mask of all tokens")


@law(LOSS, needs=NUMBER)
def padding_costs_nothing(subject: Subject) -> None:
    """Masked-out tokens change nothing: the loss is that of the other tokens.

    Apply the mask to the counts, the means and the number of tokens.
    """
    loss, mask_T = subject.build(), every_other_token()
    counted = logits()[mask_T]
    alone = loss(routing_of(counted), mask_T[mask_T])
    for seed in (6, 7):
        padded_TE = logits(seed=seed).masked_scatter(mask_T.unsqueeze(-1), counted)
        expect_close(alone, loss(routing_of(padded_TE), mask_T), "with padding between the tokens")


@law(LOSS, needs=NUMBER)
def nothing_flows_back_to_padding(subject: Subject) -> None:
    """The gradient of the loss is 0 for masked-out tokens.

    Select with `where` or by multiplying with the mask, before anything is summed.
    """
    mask_T = every_other_token()
    largest = float(gradient_of(subject.build(), logits(), mask_T)[~mask_T].abs().max())
    expect(largest == 0, f"padding has a gradient of up to {largest:.3g}")


@law(LOSS, needs=(nothing_flows_back_to_padding,))
def a_batch_of_padding_costs_nothing(subject: Subject) -> None:
    """If the mask counts no token, the loss and its gradient are 0.

    A rank may hold only padding: divide by at least 1.
    """
    none_T = torch.zeros(TOKENS, dtype=torch.bool)
    loss = subject.build()
    expect(float(loss(routing_of(logits()), none_T)) == 0, f"the loss is {float(loss(routing_of(logits()), none_T))}")
    expect(not bool(gradient_of(loss, logits(), none_T).any()), "the gradient is not 0")


@law(LOSS, needs=NUMBER)
def a_batch_without_tokens_costs_nothing(subject: Subject) -> None:
    """The loss of an empty batch is 0.

    Divide by at least 1, and do not take a maximum over tokens.
    """
    loss = float(subject.build()(routing_of(logits(0))))
    expect(loss == 0, f"the loss is {loss}")


@law(LOSS, needs=NUMBER)
def empty_slots_cost_nothing(subject: Subject) -> None:
    """The expert index in an empty slot does not change the loss.

    Count `kept_TK`, optionally with `dropped_TK`; a slot that is neither was never chosen.
    """
    routing = routing_of(logits())
    kept_TK = torch.arange(2 * TOKENS).view(TOKENS, 2) % 3 > 0
    routing = replace(routing, weight_TK=routing.weight_TK.masked_fill(~kept_TK, 0.0), kept_TK=kept_TK)
    first, second = (
        subject.build()(replace(routing, expert_TK=torch.where(kept_TK, routing.expert_TK, expert)))
        for expert in (0, EXPERTS - 1)
    )
    expect_close(first, second, "with other experts in the empty slots")
