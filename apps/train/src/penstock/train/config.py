"""Settings of the built-in trackers and observers."""

from __future__ import annotations

from pydantic import Field

from penstock.hooks.config import Schema


class LoadTraceConfig(Schema):
    """The expert load of every step."""

    every: int = Field(default=1, ge=1)
    """Keep the counts of every n-th step."""
