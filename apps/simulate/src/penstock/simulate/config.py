"""The section `simulate` of a run's config."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from penstock.hooks.config import OfKind, Schema
from penstock.hooks.registry import Choice

PlacementChoice: TypeAlias = Annotated[Choice, OfKind("placement")]
TopologyChoice: TypeAlias = Annotated[Choice, OfKind("topology")]


class SimulateSettings(Schema):
    """The network on which expert parallelism is predicted."""

    topology: TopologyChoice | None = None
    """The network topology; null uses `two-level` from penstock-netsim."""
    placement: PlacementChoice | None = None
    """Placement of experts on GPUs; null uses `contiguous`."""
    gpus: list[Annotated[int, Field(gt=0)]] = Field(default=[8, 16, 32, 64, 128, 256], min_length=1)
    """Degrees of expert parallelism (numbers of GPUs) to predict."""
    tokens_per_gpu: int = Field(default=4096, gt=0)
    """Tokens that each GPU dispatches per step."""
    hidden_size: int | None = Field(default=None, gt=0)
    """Hidden size of a token on the network; null uses the model's own."""
