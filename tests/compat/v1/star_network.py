"""A topology: every GPU has one link to one switch that is never the limit."""

from typing import Any

from penstock.hooks import Component, hookimpl
from penstock.hooks.config import Schema


class StarSettings(Schema):
    bytes_per_second: float = 1e9
    """Of a link, each way."""


class Star:
    gpus_per_node = 1

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = bytes_per_second

    def all_to_all_seconds(self, bytes_GG: Any) -> float:
        return float(max(bytes_GG.sum(axis=0).max(), bytes_GG.sum(axis=1).max()) / self.bytes_per_second)


@hookimpl
def topologies() -> list[Component]:
    return [
        Component(
            kind="topology",
            name="star",
            target="star_network:Star",
            config="star_network:StarSettings",
            summary="One switch",
            contract=1,
        )
    ]
