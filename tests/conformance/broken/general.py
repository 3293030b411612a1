"""Engines that break one law of every component each."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_serializer

from penstock.hooks import Component
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


class Engine:
    def __init__(self, size: int) -> None:
        self.size = size

    def command(self, model_folder: Path, port: int) -> list[str]:
        return ["serve", str(model_folder), str(port), str(self.size)]


class Deaf:
    """Takes no setting."""


def of(target: type = Engine, schema: type | None = Settings, **changes: object) -> Component:
    here = {"kind": "engine", "name": "broken", "summary": "An engine that breaks one law", **changes}
    config = None if schema is None else f"{schema.__module__}:{schema.__name__}"
    return Component(target=f"{target.__module__}:{target.__name__}", **{"config": config, **here})  # pyright: ignore[reportArgumentType]


GOOD = of()
BROKEN = {
    "any/the-summary-is-one-line": of(summary="engine"),
    "any/capabilities-are-known": of(capabilities=frozenset({"omniscient"})),
    "any/the-description-imports-no-torch": of(config="broken.heavy:Settings"),
    "any/fields-are-documented": of(schema=Undocumented),
    "any/settings-are-arguments-of-the-target": of(target=Deaf),
    "any/settings-survive-a-config-file": of(schema=Unwritable),
}
