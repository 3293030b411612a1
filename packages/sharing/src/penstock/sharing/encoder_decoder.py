"""One set of weights for the encoder and the decoder of a model, layer by layer (Xia et al. 2019, arXiv:1810.12559)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from penstock.hooks.contracts import AddedParameters, Shareable, SharedParameters, SharingPlan
from penstock.hooks.problems import Problem, ProblemError
from penstock.sharing.difference import reported
from penstock.sharing.layers import Selection, unequal
from penstock.sharing.parts import Part, Place, places_of
from penstock.sharing.result import SharedAcross

_ENCODER = re.compile(r"(?:(?<=\.)|^)encoder(?=\.|$)")


class EncoderDecoder:
    """Ties each layer of the encoder with the layer of the same number of the decoder: self-attention and feed-forward
    network; attention to the encoder's output has no partner. Strategies that share within a stack may be used beside
    it: their groups become one."""

    def __init__(self, parts: Sequence[Part] | None = None, norms: bool = False, biases: bool = False) -> None:
        self.selection = Selection(None if parts is None else frozenset(parts), norms, biases)

    def restructure(self, model: Shareable, seed: int) -> AddedParameters:
        return AddedParameters()

    def share(self, model: Shareable, seed: int) -> SharedParameters:
        places = places_of(model.roles, model.layouts)
        if problems := list(self.selection.problems(places)):
            raise ProblemError(problems)
        plan = SharingPlan(tuple(self._pairs(model, places)))
        if problems := list(unequal(model, plan)):
            raise ProblemError(problems)
        if not plan.groups:
            what = "the model has no encoder and decoder with parameters that they could share"
            raise ProblemError(Problem("cannot-tie", what, "", "remove `encoder-decoder`, or share other parts"))
        return SharedAcross(plan, reported(plan, model.parameters))

    def _pairs(self, model: Shareable, places: Mapping[str, Place]) -> list[tuple[str, str]]:
        taken = {name: place for name, place in places.items() if self.selection.takes(place, model.roles[name])}
        decoder = {_key(place): name for name, place in taken.items() if place.half != "cross-attention"}
        partners = ((name, _partner(place)) for name, place in taken.items())
        return [(name, decoder[key]) for name, key in partners if key is not None and key in decoder]


def _key(place: Place) -> tuple[object, ...]:
    """T5 numbers the halves of its layers, and a decoder has one more."""
    return place.stack, place.layer, place.half, re.sub(r"^layer\.\d+\.", "", place.rest)


def _partner(place: Place) -> tuple[object, ...] | None:
    stack = _ENCODER.sub("decoder", place.stack or "")
    return None if stack == place.stack else (stack, *_key(place)[1:])
