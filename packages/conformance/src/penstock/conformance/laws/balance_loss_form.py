# pyright: basic
"""Laws of balancing losses: one number, of the routing alone, that the training loop weighs and adds.

Shape suffixes: T tokens, E experts.
"""

from __future__ import annotations

import copy
import math
import pickle

import torch
from torch import Tensor

from penstock.conformance.law import NotApplicable, Subject, expect, law
from penstock.conformance.laws.losses import (
    even,
    every_other_token,
    expect_close,
    extremes,
    logits,
    routing_of,
    towards_one_pair,
)
from penstock.conformance.laws.routings import expect_same_bits, generators_left_alone, over

LOSS = "balance-loss"


@law(LOSS)
def the_weight_is_that_of_the_settings(subject: Subject) -> None:
    """`weight` is a finite number of at least 0, and equals the setting `weight` if there is one.

    The training loop adds `weight * loss`: store the setting as an attribute of that name.
    """
    weight = subject.build().weight
    number = isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0
    expect(number, f"the weight is {weight!r}")
    wanted = getattr(subject.choice().settings, "weight", weight)
    expect(weight == wanted, f"the weight is {weight}, and {wanted} in the settings")


@law(LOSS)
def a_loss_is_one_finite_number(subject: Subject) -> None:
    """The loss is a finite fp32 scalar tensor, for one token or many, with or without a mask.

    Sum or average over tokens and experts, and do not divide by a number that may be 0.
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
    for name, logits_TE in extremes().items():
        loss = subject.build()(routing_of(logits_TE))
        expect(bool(loss.isfinite()), f"the loss of logits {name} is {float(loss)}")


@law(LOSS, needs=NUMBER)
def the_weight_is_left_to_the_training_loop(subject: Subject) -> None:
    """The loss does not depend on its weight.

    Return the unweighted penalty: if it is multiplied here too, a weight of 0.01 acts as 0.0001.
    """
    if not subject.has_field("weight"):
        raise NotApplicable("the loss has no setting weight")
    light, heavy = (subject.build({"weight": weight})(routing_of(logits())) for weight in (0.25, 0.5))
    expect_close(light, heavy, "with twice the weight")


@law(LOSS, needs=NUMBER)
def asked_again_a_loss_is_the_same(subject: Subject) -> None:
    """The same routing gives the same loss, bit for bit, regardless of earlier calls.

    Keep no running counts: the loss would depend on earlier batches, and a resumed run would differ.
    """
    loss, routing = subject.build(), routing_of(logits())
    first = loss(routing)
    loss(routing_of(towards_one_pair(1.0)))
    expect(torch.equal(first, loss(routing)), "a second call returns a different loss")


@law(LOSS, needs=NUMBER)
def the_routing_is_left_alone(subject: Subject) -> None:
    """The loss does not change the routing.

    Other losses and the load metrics read it next: do not use in-place operations on its tensors.
    """
    routing = routing_of(logits())
    before = over(routing, torch.clone)
    subject.build()(routing, every_other_token())
    expect_same_bits(before, routing, "after the loss")


@law(LOSS, needs=NUMBER)
def the_global_generators_are_left_alone(subject: Subject) -> None:
    """A loss does not draw from global generators.

    A draw shifts everything after it: dropout, noise, the data order.
    """
    loss = subject.build()
    with generators_left_alone("the loss"):
        loss(routing_of(logits()))


@law(LOSS, needs=NUMBER)
def a_copy_is_the_same_loss(subject: Subject) -> None:
    """A deep or pickled copy gives the same loss.

    Store plain numbers as attributes, not lambdas.
    """
    loss, routing = subject.build(), routing_of(logits())
    for name, other in (("deep", copy.deepcopy(loss)), ("pickled", pickle.loads(pickle.dumps(loss)))):
        expect_close(loss(routing), other(routing), f"of the {name} copy")
