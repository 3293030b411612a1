"""Settings of the components; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.netsim.hardware import HardwareName


class TwoLevelConfig(Schema):
    """`two-level`: a preset, any figure of which may be replaced by one that you measured."""

    hardware: HardwareName = "h800"
    """Preset whose figures are used. The default is the machine that the best public measurements come from."""
    gpus_per_node: int | None = Field(default=None, gt=0)
    """GPUs that share the fast links; the preset's where empty."""
    inside_bandwidth: float | None = Field(default=None, gt=0)
    """Bytes/s that a GPU sends or receives inside its node; the preset's where empty."""
    inside_latency: float | None = Field(default=None, ge=0)
    """Seconds before the first byte inside a node; the preset's where empty."""
    between_bandwidth: float | None = Field(default=None, gt=0)
    """Bytes/s that a GPU sends or receives between nodes; the preset's where empty."""
    between_latency: float | None = Field(default=None, ge=0)
    """Seconds before the first byte between nodes; the preset's where empty."""
