"""Settings of the tasks; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from penstock.hooks.config import Schema


class HeldoutConfig(Schema):
    """`heldout`: the run's own held-out tokens."""

    stride: int | None = Field(default=None, gt=0)
    """Tokens by which windows move on; disjoint windows where empty. A smaller stride gives more context, at
    sequence_length / stride times the cost."""
    max_tokens: int | None = Field(default=None, gt=1)
    """Only the first so many tokens; all where empty. The metric's name then says so."""


class WikiText2Config(Schema):
    """`wikitext2`: the raw test split of WikiText-2."""

    path: Path | None = None
    """A local `wiki.test.raw`; the Hugging Face hub's copy where empty."""
    stride: int | None = Field(default=None, gt=0)
    """Tokens by which windows move on; disjoint windows where empty."""
    max_bytes: int | None = Field(default=None, gt=1)
    """Only the first so many bytes, cut at a line; all 1,290,590 where empty. The metric's name then says so."""
