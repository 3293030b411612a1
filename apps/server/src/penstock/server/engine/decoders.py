"""From a model to its slots."""

from __future__ import annotations

from typing import Any

from penstock.generate.model import TextModel
from penstock.hooks.contracts import BatchDependentRouter, SlotDecoder, Slotted
from penstock.quant158.decoder import Decoder
from penstock.server.engine.artifact import ArtifactSlots


def slots_of(model: TextModel, *, slots: int, positions: int) -> SlotDecoder:
    """The slots of a model, each for a text of up to `positions` tokens, or of as many as the model reads. A model with
    a router that looks at the tokens beside a token computes one text after the other: a text is the same in company
    and alone."""
    most = positions if model.positions is None else min(positions, model.positions)
    if isinstance(model.model, Decoder):
        return ArtifactSlots(model.model, slots=slots, positions=most)
    from penstock.server.engine.sequential import SequentialSlots  # imports torch, which an artifact does without

    decoder: SlotDecoder | None = None
    if isinstance(model.model, Slotted) and not _looks_at_other_texts(model.model):
        decoder = model.model.slot_decoder(slots, most)
    if decoder is None:
        return SequentialSlots(model.model, slots=slots, positions=most, vocabulary_size=model.vocabulary_size)
    return decoder


def _looks_at_other_texts(model: Any) -> bool:
    return any(
        isinstance(router, BatchDependentRouter) and router.depends_on_batch for router in model.routers.values()
    )
