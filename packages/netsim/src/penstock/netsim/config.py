"""Settings of the components; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.netsim.hardware import HardwareName


class PortsConfig(Schema):
    """A preset; any of its figures may be replaced by your own measurement."""

    hardware: HardwareName = "h800"
    """Hardware preset that provides the figures. The default is the machine with the best public measurements."""
    inside_bandwidth: float | None = Field(default=None, gt=0)
    """Bytes/s that a GPU sends or receives inside its node; null means the preset's value."""
    inside_latency: float | None = Field(default=None, ge=0)
    """Seconds before the first byte inside a node; null means the preset's value."""
    between_bandwidth: float | None = Field(default=None, gt=0)
    """Bytes/s that a GPU sends or receives between nodes; null means the preset's value."""
    between_latency: float | None = Field(default=None, ge=0)
    """Seconds before the first byte between nodes; null means the preset's value."""


class TwoLevelConfig(PortsConfig):
    """`two-level`, `rail-optimised`: nodes, with one network port per GPU."""

    gpus_per_node: int | None = Field(default=None, gt=0)
    """GPUs that share the fast links; null means the preset's value."""


class SingleNodeConfig(TwoLevelConfig):
    """`single-node`: one switch, or PCIe switches joined by the host."""

    gpus_per_switch: int | None = Field(default=None, gt=0)
    """GPUs that reach each other without the host; null means one switch for all GPUs (NVLink)."""
    bridge_bandwidth: float | None = Field(default=None, gt=0)
    """Bytes/s that the host passes between switches, all messages together; required with `gpus_per_switch`."""


class FatTreeConfig(TwoLevelConfig):
    """`fat-tree`: leaf switches under a core."""

    nodes_per_leaf: int = Field(default=4, gt=0)
    """Nodes per leaf switch: 4 nodes of 8 GPUs fill half the ports of a 64-port switch, the other half go up."""
    oversubscription: float = Field(default=1.0, gt=0)
    """Bandwidth of a leaf's nodes divided by the bandwidth of its links to the core; 1 is full bisection."""


class DragonflyConfig(TwoLevelConfig):
    """`dragonfly`: groups of nodes with one link between each pair of groups."""

    nodes_per_group: int = Field(default=4, gt=0)
    """Nodes per group."""
    taper: float = Field(default=1.0, gt=0)
    """Bandwidth of a group's nodes divided by the total bandwidth of its links to other groups."""


class RingConfig(PortsConfig):
    """`ring`: every GPU with two neighbours."""


class TorusConfig(PortsConfig):
    """`torus`: a grid of GPUs whose opposite edges are joined."""

    dimensions: list[Annotated[int, Field(gt=0)]] | None = Field(default=None, min_length=1)
    """Sides of the grid, whose product is the number of GPUs; null means two sides that are as equal as possible."""


class LinkConfig(Schema):
    """A cable that carries traffic both ways."""

    between: Annotated[list[int | str], Field(min_length=2, max_length=2)]
    """The two ends of the cable: numbers are GPUs, words are switches."""
    bandwidth: float = Field(gt=0)
    """Bytes/s in each direction."""


class GraphConfig(TwoLevelConfig):
    """`graph`: your own network, link by link."""

    links: list[LinkConfig] = Field(min_length=1)
    """All links; every GPU must be able to reach every other GPU."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        return {"links": [{"between": [gpu, "switch"], "bandwidth": 25e9} for gpu in range(2)]}


class EplbConfig(Schema):
    """`eplb`."""

    redundant: int = Field(default=0, ge=0)
    """Slots for copies of busy experts, rounded up so that every GPU has as many; 32 in DeepSeek-V3's prefill."""
    groups: int = Field(default=1, gt=0)
    """Expert groups. Each is kept on one node if the number of nodes divides that of groups; 8 in DeepSeek-V3."""
    gpus_per_node: int = Field(default=8, gt=0)
    """GPUs that share the fast links; 8 in all of the presets but `gb200-nvl72`."""


class BalancedSwapConfig(Schema):
    """`balanced-swap`."""

    redundant: int = Field(default=0, ge=0)
    """Slots for copies of busy experts, rounded up so that every GPU has as many; 32 in DeepSeek-V3's prefill."""
    gpus_per_node: int = Field(default=8, gt=0)
    """GPUs that share the fast links; 8 in all of the presets but `gb200-nvl72`."""
    most_moved: float = Field(default=1.0, ge=0, le=1)
    """Largest share of slots that a new plan may change. With 0.25, plans are about as balanced as without a limit."""
