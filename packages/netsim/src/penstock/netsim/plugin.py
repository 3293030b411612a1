"""What this package offers."""

from __future__ import annotations

from penstock.hooks import Component, hookimpl


@hookimpl
def topologies() -> list[Component]:
    return [
        Component(
            kind="topology",
            name="two-level",
            target="penstock.netsim.topology:TwoLevel",
            config="penstock.netsim.config:TwoLevelConfig",
            summary="NVLink inside a node, a network between nodes; latency plus bytes over bandwidth.",
            capabilities=frozenset({"monotone", "subadditive", "interchangeable"}),
        )
    ]


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
            summary="DeepSeek's EPLB: copies of the hottest experts, the heaviest packed first.",
            capabilities=frozenset({"equal-slots", "load-aware"}),
        ),
        Component(
            kind="placement",
            name="balanced-swap",
            target="penstock.netsim.balanced_swap:BalancedSwap",
            config="penstock.netsim.config:BalancedSwapConfig",
            summary="Balanced over past windows by pair swaps, copies chosen with the packing and spread over nodes.",
            capabilities=frozenset({"equal-slots", "load-aware"}),
        ),
    ]
