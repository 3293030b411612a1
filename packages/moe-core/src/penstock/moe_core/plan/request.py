"""What a user asks of a shape: `model.plan` in a config, and the options of `penstock plan`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from penstock.hooks.schema import Schema

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


class PlanRequest(Schema):
    """A budget of parameters and how to share it out. The shape that is found has the parameters within 0.5 %, the
    share of the embedding within `share_tolerance`, and the expansion within 3 %."""

    parameters: int = Field(gt=0, le=10**13)
    """Parameters that the model stores, a tied embedding once: a number, or text such as 10M."""
    embedding_share: float = Field(gt=0, lt=1)
    """Share of the parameters that embedding and head have."""
    glu: float = Field(default=2.66, gt=0)
    """Hidden width of the feed-forward network over the model's width; of a layer of experts, the hidden width that a
    token uses, the shared expert's included. 2.66 makes a GLU as large as the MLP of 4 times the width."""
    vary: Literal["depth", "vocabulary", "factor"] = "depth"
    """The size that the planner chooses to meet the share. `depth`: it chooses the number of layers. `vocabulary`: it
    chooses the size of the vocabulary for `layers` layers, in place of `data.tokenizer.vocab_size`. `factor`: it
    chooses the rank of a factorised embedding for `layers` layers."""
    layers: int | None = Field(default=None, gt=0, le=1000)
    """Number of layers, where the vocabulary or the factor varies."""
    vocabulary: int | None = Field(default=None, gt=0, le=10**8)
    """Tokens, in place of `data.tokenizer.vocab_size`; needed with a tokenizer's file."""
    tied: bool = True
    """Whether embedding and head are one matrix."""
    head_size: Literal[32, 64] | None = None
    """Width of an attention head; null tries both."""
    width_multiple: int = Field(default=32, ge=8)
    """The model's width is a multiple of it."""
    feed_forward_multiple: int = Field(default=8, ge=1)
    """Hidden widths of feed-forward networks are multiples of it."""
    vocabulary_multiple: int = Field(default=32, ge=1)
    """A vocabulary that varies is a multiple of it."""
    share_tolerance: float = Field(default=0.01, gt=0, lt=1)
    """Largest distance from `embedding_share`; 0.01 is one point."""
    experts: int = Field(default=0, ge=0)
    """Experts of each layer after the first dense ones; 0 plans a dense model."""
    experts_per_token: int = Field(default=2, ge=1)
    """Experts that a token uses: the router's k."""
    shared_experts: int = Field(default=1, ge=0)
    """Experts that every token uses."""
    dense_layers: int = Field(default=1, ge=0)
    """Dense layers at the beginning of a model with experts."""

    if TYPE_CHECKING:

        def __hash__(self) -> int: ...  # pydantic makes one for frozen models

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        return {"parameters": "10M", "embedding_share": 0.35}

    @field_validator("parameters", "vocabulary", mode="before")
    @classmethod
    def _reads_units(cls, value: object) -> object:
        """
        >>> PlanRequest(parameters="0.3M", embedding_share=0.25).parameters
        300000
        >>> PlanRequest(parameters="10,000,000", vocabulary="4e3", embedding_share=0.25).vocabulary
        4000
        """
        found = re.fullmatch(r"([\d_,]*\.?\d+(?:[eE]\d{1,2})?)([kKmMbBtT]?)", value) if isinstance(value, str) else None
        return round(float(found[1].replace(",", "")) * _UNITS[found[2].lower()]) if found else value

    def misfits(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.vary == "depth" and self.layers is not None:
            yield ("layers",), "the plan chooses the depth: leave it out, or vary the vocabulary or the factor"
        if self.vary != "depth" and self.layers is None:
            yield ("layers",), f"the {self.vary} varies at a fixed depth: give the number of layers"
        if self.vary == "vocabulary" and self.vocabulary is not None:
            yield ("vocabulary",), "the plan chooses the vocabulary: leave it out"
        if self.experts and self.experts_per_token > self.experts:
            yield ("experts_per_token",), f"a token cannot use {self.experts_per_token} of {self.experts} experts"
        if self.experts and self.layers is not None and self.layers <= self.dense_layers:
            yield ("layers",), f"the first {self.dense_layers} are dense, so none has experts"
