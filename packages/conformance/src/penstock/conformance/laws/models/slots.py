# pyright: basic
"""What holds of the slots in which a server keeps the texts of a model (`penstock.hooks.contracts.Slotted`).

Shape suffixes: V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from typing import Any

import torch

from penstock.conformance import slots
from penstock.conformance.law import NotApplicable, Subject, expect, law, laws_in
from penstock.conformance.laws.models.build import ARCHITECTURE, expect_close, generating, logits_of, redrawn
from penstock.conformance.laws.models.passes import ROUTINGS
from penstock.conformance.slots import POSITIONS, TEXTS, MakeSlots
from penstock.hooks.contracts import Draw, Row, Slotted


@law(ARCHITECTURE, needs=ROUTINGS)
def slots_compute_the_logits_of_the_model(subject: Subject) -> None:
    """A slot that reads a text in parts tells the log-probabilities of a full pass, and takes the likeliest token.

    Check the positions of later parts, the mask within a part, and that log-probabilities ignore the temperature.
    """
    model, make = _slotted(subject)
    text, decoder = TEXTS[2], make(1, POSITIONS)
    decoder.read(0, text[:2])
    (chosen,) = decoder.step([Row(0, text[2:], Draw(logprobs=5))])
    expected_V = logits_of(model, torch.tensor([text]))[0, -1].log_softmax(-1)
    likeliest_K = expected_V.topk(5).values
    expect(expected_V[chosen.token] >= likeliest_K[0] - 1e-4, f"token {chosen.token} is not the likeliest")
    expect_close(torch.tensor(chosen.logprob), likeliest_K[0], "of the token")
    expect(len(chosen.top) == 5, f"5 likeliest tokens were asked for, and {len(chosen.top)} are told")
    expect_close(torch.tensor([each for _, each in chosen.top]), likeliest_K, "of the 5 likeliest tokens")


@law(ARCHITECTURE, needs=ROUTINGS)
def a_text_in_a_slot_is_what_it_is_alone(subject: Subject) -> None:
    """Texts that join and leave between steps have the tokens and log-probabilities of each alone.

    Check that a row reads the keys of its own slot, at the positions of its own text, and sees none beyond its end.
    """
    slots.expect_texts_as_alone(_slotted(subject)[1])


@law(ARCHITECTURE, needs=ROUTINGS)
def a_slot_that_was_cut_goes_on_like_one_that_was_not(subject: Subject) -> None:
    """After `cut`, a slot that reads the rest of a text has the logits of one that read it all.

    Forget what lies behind the cut. A state that cannot go back forgets all, and `length` says so.
    """
    slots.expect_a_cut_text_to_go_on(_slotted(subject)[1])


@law(ARCHITECTURE, needs=ROUTINGS)
def a_copied_text_goes_on_like_one_that_was_read(subject: Subject) -> None:
    """After `copy`, a slot that reads the rest of a text has the logits of one that read it all, and so has its source.

    Copy the state, not a reference to it. A state that cannot be copied leaves the target empty, and `length` says so.
    """
    slots.expect_a_copied_text_to_go_on(_slotted(subject)[1])


@law(ARCHITECTURE, needs=(a_text_in_a_slot_is_what_it_is_alone, a_slot_that_was_cut_goes_on_like_one_that_was_not))
def a_seed_is_one_text_whatever_is_beside_it(subject: Subject) -> None:
    """From one prompt and one seed one text follows, alone and among others, in a new slot and in a used one.

    Give each slot a generator of its own, which `begin` seeds.
    """
    slots.expect_a_seed_to_be_one_text(_slotted(subject)[1])


@law(ARCHITECTURE, needs=ROUTINGS)
def loads_of_experts_count_every_token_once(subject: Subject) -> None:
    """`expert_loads` counts `k` experts of each router for each token that a slot has read since the last call.

    Count the fresh tokens of a pass, whether a token is chosen after them or not, and no token a second time.
    """
    model, make = _slotted(subject)
    slots.expect_loads_of_every_token(make, {layer: router.k for layer, router in model.routers.items()})


def _slotted(subject: Subject) -> tuple[Any, MakeSlots]:
    """The model, and what makes its decoders."""
    model = generating(redrawn(subject))
    if not isinstance(model, Slotted) or model.slot_decoder(1, POSITIONS) is None:
        raise NotApplicable("a server computes its texts one after the other")
    return model, model.slot_decoder


LAWS = laws_in(globals())
