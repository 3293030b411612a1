"""The section `simulate` of a run's config."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from penstock.hooks.config import OfKind, Schema
from penstock.hooks.registry import Choice

PlacementChoice: TypeAlias = Annotated[Choice, OfKind("placement")]
TopologyChoice: TypeAlias = Annotated[Choice, OfKind("topology")]


class SimulateSettings(Schema):
    """The network that expert parallelism is predicted on."""

    topology: TopologyChoice | None = None
    """The network; null is `two-level`, where penstock-netsim is installed."""
    placement: PlacementChoice | None = None
    """Which GPU holds which expert; null is `contiguous`."""
    gpus: list[int] = [8, 16, 32, 64, 128, 256]
    """Degrees of expert parallelism."""
    tokens_per_gpu: int = Field(default=4096, gt=0)
    """Tokens that each GPU dispatches in one step."""
    hidden_size: int | None = Field(default=None, gt=0)
    """Width of a token on the wire; null takes the model's own."""
