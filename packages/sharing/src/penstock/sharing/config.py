"""Schemas of the sharing strategies; imports no torch."""

from __future__ import annotations

from pydantic import Field

from penstock.hooks.config import Schema


class TiedEmbeddingsConfig(Schema):
    """Settings of `tied-embeddings` (none)."""


class TiedGainsConfig(Schema):
    """Settings of `tied-gains`."""

    match: list[str] = Field(default=["*"], min_length=1)
    """Matrices to share, as glob patterns over parameter names such as `layers.3.self_attn.q_proj.weight`."""
    interval: int | None = Field(default=None, ge=2)
    """Number of adjacent layers that share one matrix; null shares it across all layers."""
