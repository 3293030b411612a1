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


class EplbConfig(Schema):
    """`eplb`."""

    redundant: int = Field(default=0, ge=0)
    """Slots for copies of busy experts, rounded up so that every GPU has as many; 32 in DeepSeek-V3's prefill."""
    groups: int = Field(default=1, gt=0)
    """Groups of experts that are kept on one node each where they divide over the nodes; 8 in DeepSeek-V3."""
    gpus_per_node: int = Field(default=8, gt=0)
    """GPUs that share the fast links; 8 in all of the presets but `gb200-nvl72`."""


class BalancedSwapConfig(Schema):
    """`balanced-swap`."""

    redundant: int = Field(default=0, ge=0)
    """Slots for copies of busy experts, rounded up so that every GPU has as many; 32 in DeepSeek-V3's prefill."""
    gpus_per_node: int = Field(default=8, gt=0)
    """GPUs that share the fast links; 8 in all of the presets but `gb200-nvl72`."""
    most_moved: float = Field(default=1.0, ge=0, le=1)
    """Share of the slots that a new plan may change; with 0.25 a plan is about as balanced and moves a quarter."""
