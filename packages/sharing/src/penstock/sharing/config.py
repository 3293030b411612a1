"""Schemas of the sharing strategies; imports no torch."""

from __future__ import annotations

from penstock.hooks.config import Schema


class TiedEmbeddingsConfig(Schema):
    """Settings of `tied-embeddings`: it has none."""
