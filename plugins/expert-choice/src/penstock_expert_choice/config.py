"""Settings of the router; the fields are the keyword arguments of its target."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from penstock.hooks.config import Schema


class ExpertChoiceConfig(Schema):
    """How many tokens an expert takes, and how its output is weighted."""

    capacity_factor: float = Field(default=2.0, gt=0)
    """Average number of experts per token: each expert takes ceil(tokens * capacity_factor / experts) tokens. At most
    the number of experts. Most experiments of the paper use 2, which costs as much compute as top-2 routing."""

    score_function: ClassVar[str | None] = None
    """No class of transformers chooses tokens for experts, so `config validate` can say that a run is not exported."""

    normalize: bool = False
    """Make the weights of a token sum to 1 if any expert took it. The paper uses the plain scores as weights."""
