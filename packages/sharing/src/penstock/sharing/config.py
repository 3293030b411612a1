"""Schemas of the sharing strategies; imports no torch."""

from __future__ import annotations

from pydantic import Field

from penstock.hooks.config import Schema


class TiedEmbeddingsConfig(Schema):
    """Settings of `tied-embeddings`: it has none."""


class TiedGainsConfig(Schema):
    """Settings of `tied-gains`."""

    match: list[str] = Field(default=["*"], min_length=1)
    """Which matrices, as patterns over parameter names such as `layers.3.self_attn.q_proj.weight`."""
    interval: int | None = Field(default=None, ge=2)
    """How many neighbouring layers use one matrix; null: all of them."""
