"""Settings of the router; the fields are the keyword arguments of its target."""

from __future__ import annotations

from pydantic import Field

from penstock.hooks.config import Schema


class ExpertChoiceConfig(Schema):
    """How many tokens an expert takes, and how its output is weighted."""

    capacity_factor: float = Field(default=2.0, gt=0)
    """Experts a token has on average: each expert takes ceil(tokens * capacity_factor / experts) tokens. 2 is the
    paper's in most experiments, and the compute of top-2 routing; at most the number of experts."""

    normalize: bool = False
    """Let the weights of a token that any expert took sum to 1. The paper weights by the plain score."""
