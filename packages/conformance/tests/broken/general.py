"""Servers that break one law of every component each."""

from __future__ import annotations

from pydantic import field_serializer

from broken.described import described
from broken.server import Good
from penstock.hooks.config import Schema


class Settings(Schema):
    size: int = 2
    """How large."""


class Undocumented(Schema):
    size: int = 2


class Unwritable(Schema):
    size: int = 2
    """How large."""

    @field_serializer("size")
    def written(self, size: int) -> int:
        return size + 1


class Server(Good):
    def __init__(self, size: int) -> None:
        self.size = size


class Deaf:
    """Takes no setting."""


of = described("server", "A server that breaks one law", config="broken.general:Settings", contract=2)
GOOD = of(Server)
BROKEN = {
    "any/the-summary-is-one-line": of(Server, summary="server"),
    "any/capabilities-are-known": of(Server, frozenset({"omniscient"})),
    "any/the-description-imports-no-torch": of(Server, config="broken.heavy:Settings"),
    "any/fields-are-documented": of(Server, config="broken.general:Undocumented"),
    "any/settings-are-arguments-of-the-target": of(Deaf),
    "any/settings-survive-a-config-file": of(Server, config="broken.general:Unwritable"),
}
