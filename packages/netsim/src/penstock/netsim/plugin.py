"""Components of this package."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl

_SCHEMAS = {"RailOptimised": "TwoLevel"}  # targets that share another target's schema
_OF_LINKS = frozenset({"monotone", "subadditive"})
_OF_PORTS = _OF_LINKS | {"interchangeable"}


@hookimpl
def topologies() -> list[Component]:
    return [
        Component(
            kind="topology",
            name="two-level",
            target="penstock.netsim.topology:TwoLevel",
            config="penstock.netsim.config:TwoLevelConfig",
            summary="NVLink inside a node, a network between nodes; latency plus bytes over bandwidth.",
            capabilities=_OF_PORTS,
        ),
        _by_links(
            "single-node", "SingleNode", "One node: GPUs behind NVLink, or PCIe switches behind the host.", _OF_PORTS
        ),
        _by_links(
            "rail-optimised", "RailOptimised", "One switch (rail) per GPU number; NVLink takes messages to their rail."
        ),
        _by_links("fat-tree", "FatTree", "Leaf switches under a core, with oversubscription.", _OF_PORTS),
        _by_links("dragonfly", "Dragonfly", "Groups of nodes with one link between each pair of groups.", _OF_PORTS),
        _by_links("torus", "Torus", "A grid of GPUs whose opposite edges are joined."),
        _by_links("ring", "Ring", "GPUs in a circle."),
        _by_links("graph", "Graph", "Your own network, link by link."),
    ]


def _by_links(name: str, target: str, summary: str, capabilities: frozenset[str] = _OF_LINKS) -> Component:
    return Component(
        kind="topology",
        name=name,
        target=f"penstock.netsim.topologies:{target}",
        config=f"penstock.netsim.config:{_SCHEMAS.get(target, target)}Config",
        summary=summary,
        capabilities=capabilities,
    )


@hookimpl
def placements() -> list[Component]:
    return [
        Component(
            kind="placement",
            name="contiguous",
            target="penstock.netsim.placement:Contiguous",
            summary="Experts in order, the same number on every GPU.",
            capabilities=frozenset({"equal-slots"}),
        ),
        Component(
            kind="placement",
            name="eplb",
            target="penstock.netsim.eplb:Eplb",
            config="penstock.netsim.config:EplbConfig",
            summary="DeepSeek's EPLB: copies the hottest experts and packs the heaviest copies first.",
            capabilities=frozenset({"equal-slots", "load-aware"}),
        ),
        Component(
            kind="placement",
            name="balanced-swap",
            target="penstock.netsim.balanced_swap:BalancedSwap",
            config="penstock.netsim.config:BalancedSwapConfig",
            summary="Balances past windows by pair swaps; chooses copies with the packing and spreads them over nodes.",
            capabilities=frozenset({"equal-slots", "load-aware"}),
        ),
    ]
