"""From a model to its slots."""

from __future__ import annotations

from penstock.generate.model import TextModel
from penstock.hooks.contracts import SlotDecoder, Slotted
from penstock.quant158.decoder import Decoder
from penstock.server.engine.artifact import ArtifactSlots
from penstock.server.engine.sequential import SequentialSlots


def slots_of(model: TextModel, *, slots: int, positions: int) -> SlotDecoder:
    """The slots of a model, each for a text of up to `positions` tokens, or of as many as the model reads."""
    most = positions if model.positions is None else min(positions, model.positions)
    if isinstance(model.model, Decoder):
        return ArtifactSlots(model.model, slots=slots, positions=most)
    if isinstance(model.model, Slotted):
        return model.model.slot_decoder(slots, most)
    return SequentialSlots(model.model, slots=slots, positions=most, vocabulary_size=model.vocabulary_size)
