"""From a model to its slots."""

from __future__ import annotations

from typing import Any

from penstock.generate.model import TextModel
from penstock.hooks.contracts import BatchDependentRouter, PartlyFrozen, SlotDecoder, Slotted
from penstock.quant158.decoder import Decoder
from penstock.server.engine.artifact import ArtifactSlots


def slots_of(model: TextModel, *, slots: int, positions: int) -> SlotDecoder:
    """The slots of a model, each for a text of up to `positions` tokens, or of as many as the model reads. A model with
    a router that looks at the tokens beside a token computes one text after the other, and reads prompts whole: a text
    is the same in company and alone."""
    most = positions if model.positions is None else min(positions, model.positions)
    if isinstance(model.model, Decoder):
        return ArtifactSlots(model.model, slots=slots, positions=most)
    from penstock.server.engine.sequential import SequentialSlots  # imports torch, which an artifact does without

    whole = _looks_at_other_tokens(model.model)
    if isinstance(model.model, Slotted) and not whole and (decoder := model.model.slot_decoder(slots, most)):
        return decoder
    generates: Any = model.model
    size = model.vocabulary_size
    return SequentialSlots(generates, slots=slots, positions=most, vocabulary_size=size, whole=whole)


def _looks_at_other_tokens(model: Any) -> bool:
    """Of the model or of its frozen base."""
    routers = getattr(model, "routers", {}).values()
    own = any(isinstance(router, BatchDependentRouter) and router.depends_on_batch for router in routers)
    return own or (isinstance(model, PartlyFrozen) and _looks_at_other_tokens(model.base))
