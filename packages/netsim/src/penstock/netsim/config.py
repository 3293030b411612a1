"""Settings of the components; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.netsim.hardware import HardwareName


class PortsConfig(Schema):
    """A preset, any figure of which may be replaced by one that you measured."""

    hardware: HardwareName = "h800"
    """Preset whose figures are used. The default is the machine that the best public measurements come from."""
    inside_bandwidth: float | None = Field(default=None, gt=0)
    """Bytes/s that a GPU sends or receives inside its node; the preset's where empty."""
    inside_latency: float | None = Field(default=None, ge=0)
    """Seconds before the first byte inside a node; the preset's where empty."""
    between_bandwidth: float | None = Field(default=None, gt=0)
    """Bytes/s that a GPU sends or receives between nodes; the preset's where empty."""
    between_latency: float | None = Field(default=None, ge=0)
    """Seconds before the first byte between nodes; the preset's where empty."""


class TwoLevelConfig(PortsConfig):
    """`two-level`, `rail-optimised`: nodes, and a network port a GPU."""

    gpus_per_node: int | None = Field(default=None, gt=0)
    """GPUs that share the fast links; the preset's where empty."""


class SingleNodeConfig(TwoLevelConfig):
    """`single-node`: one switch, or PCIe switches joined by the host."""

    gpus_per_switch: int | None = Field(default=None, gt=0)
    """GPUs that reach each other without the host; empty for one switch over all (NVLink)."""
    bridge_bandwidth: float | None = Field(default=None, gt=0)
    """Bytes/s that the host passes between switches, all messages together; needed with `gpus_per_switch`."""


class FatTreeConfig(TwoLevelConfig):
    """`fat-tree`: leaf switches under a core."""

    nodes_per_leaf: int = Field(default=4, gt=0)
    """Nodes on one leaf switch: 4 of 8 GPUs fill half the ports of a 64-port switch, the other half going up."""
    oversubscription: float = Field(default=1.0, gt=0)
    """What a leaf's nodes can send over what its links to the core carry; 1 is full bisection."""


class DragonflyConfig(TwoLevelConfig):
    """`dragonfly`: groups of nodes with one link between each two groups."""

    nodes_per_group: int = Field(default=4, gt=0)
    """Nodes of one group."""
    taper: float = Field(default=1.0, gt=0)
    """What a group's nodes can send over what its links to the other groups carry together."""


class RingConfig(PortsConfig):
    """`ring`: every GPU with two neighbours."""


class TorusConfig(PortsConfig):
    """`torus`: a grid of GPUs whose edges are joined."""

    dimensions: list[Annotated[int, Field(gt=0)]] | None = Field(default=None, min_length=1)
    """Sides of the grid, whose product is the number of GPUs; where empty, two as equal as that number allows."""


class LinkConfig(Schema):
    """A cable, both ways."""

    between: Annotated[list[int | str], Field(min_length=2, max_length=2)]
    """Its two ends: numbers are GPUs, words are switches."""
    bandwidth: float = Field(gt=0)
    """Bytes/s in each direction."""


class GraphConfig(TwoLevelConfig):
    """`graph`: your own network, link by link."""

    links: list[LinkConfig] = Field(min_length=1)
    """All links; every GPU must reach every other one."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        return {"links": [{"between": [gpu, "switch"], "bandwidth": 25e9} for gpu in range(2)]}


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
