"""Laws of contract 2 of tasks: what a task asks, before anything is answered."""

# pyright: basic
# (torch is untyped here)

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from penstock.conformance.asking import samples_of
from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws.task_parts import BYTES, TASK, a_context, random_model, require_contract
from penstock.hooks.contracts import Generate, Likelihood, Rolling


@law(TASK)
@torch.enable_grad()  # ends what a task leaves switched off
def items_have_ids_of_their_own(subject: Subject) -> None:
    """Contract 2: every item has an id, a unique non-empty string.

    Use the data set's own id or the row number.
    """
    require_contract(subject, 2)
    ids = [item.id for item in subject.build().items(a_context())]
    expect(ids, "no items")
    expect(all(isinstance(each, str) and each for each in ids), f"the ids are {ids[:3]}")
    expect(len(set(ids)) == len(ids), f"{len(ids)} items have {len(set(ids))} ids")


@law(TASK, needs=(items_have_ids_of_their_own,))
@torch.enable_grad()  # ends what a task leaves switched off
def the_same_is_asked_each_time(subject: Subject) -> None:
    """Contract 2: two objects make the same requests for the same items in the same order.

    Draw with the context's seed: answers are cached, and a killed run continues where it stopped.
    """
    require_contract(subject, 2)
    expect(asked(subject) == asked(subject), "another object has different items or requests")


@law(TASK, needs=(items_have_ids_of_their_own,))
@torch.enable_grad()  # ends what a task leaves switched off
def requests_are_of_tokens(subject: Subject) -> None:
    """Contract 2: a request is a `Likelihood`, a `Rolling` or a `Generate`, and every token is a tokenizer token.

    Encode texts with the context's tokenizer; a context, continuation or prompt has at least one token.
    """
    require_contract(subject, 2)
    task, context = subject.build(), a_context()
    for item in list(task.items(context)):
        for request in task.requests(item, context):
            known = isinstance(request, Likelihood | Rolling | Generate)
            expect(known, f"item '{item.id}' has a request of type {type(request).__name__}")
            for token_N in _tokens(request):
                whole = len(token_N) and np.issubdtype(token_N.dtype, np.integer)
                expect(whole, f"item '{item.id}' asks for {token_N[:3]!r}")
                expect(
                    token_N.min() >= 0 and token_N.max() < BYTES,
                    f"item '{item.id}' has a token that is not in the tokenizer",
                )


@law(TASK, needs=(requests_are_of_tokens,))
@torch.enable_grad()  # ends what a task leaves switched off
def samples_have_the_same_names(subject: Subject) -> None:
    """Contract 2: `score` returns at least one sample, and all samples have finite floats under the same names.

    Return 0.0 for what does not count, and convert booleans to floats.
    """
    require_contract(subject, 2)
    samples = samples_of(subject.build(), random_model(), a_context())
    expect(samples, "no samples")
    names = {frozenset(sample) for sample in samples}
    expect(len(names) == 1, f"samples have names such as {[sorted(each) for each in names][:2]}")
    for sample in samples:
        for name, value in sample.items():
            expect(isinstance(value, float) and math.isfinite(value), f"{name} is {value!r}")


def asked(subject: Subject, **changes: Any) -> list[Any]:
    """Ids and requests, in a form that can be compared."""
    task, context = subject.build(), a_context(**changes)
    return [
        (
            item.id,
            [(type(request).__name__, [token_N.tolist() for token_N in _tokens(request)]) for request in requests],
        )
        for item in list(task.items(context))
        for requests in [task.requests(item, context)]
    ]


def _tokens(request: Any) -> list[Any]:
    """The arrays of tokens in a request."""
    match request:
        case Likelihood():
            return [np.asarray(request.context), np.asarray(request.continuation)]
        case Rolling():
            return [np.asarray(request.token_N)]
        case _:
            return [np.asarray(request.prompt)]


LAWS = laws_in(globals())
