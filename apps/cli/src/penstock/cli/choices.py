"""Components named on a command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.hooks.document import parse_value
from penstock.hooks.known import FIRST_PARTY
from penstock.hooks.registry import Choice, Entry, Registry


def choose(
    registry: Registry, kind: str, text: str | dict[str, Any], settings: Mapping[str, Any] | None = None
) -> Choice:
    """The component of `kind` that `text` names: NAME, NAME:ARGUMENT where its schema says which setting the argument
    is, or {use: NAME, ...}, as text or as read from it. `settings` are those of other options, for schemas that have
    them."""
    written: Any = parse_value(text, f"--{kind}")[0] if isinstance(text, str) else text
    if isinstance(written, str):
        written = _with_argument(registry, kind, written)
    if settings and isinstance(written, dict):
        known = _fields_of(registry.lookup(kind, str(written.get("use"))))
        written = {**{name: value for name, value in settings.items() if name in known}, **written}
    return registry.choose(kind, written, f"--{kind}")


def _with_argument(registry: Registry, kind: str, text: str) -> dict[str, Any]:
    """The name and what stands after its colon as settings, unless both are the id of a component."""
    name, colon, argument = text.partition(":")
    if not colon or registry.lookup(kind, text) is not None:
        return {"use": text}
    entry = registry.lookup(kind, name)
    if entry is None:
        return {"use": name if (kind, name) in FIRST_PARTY else text}
    setting = getattr(_schema_of(entry), "argument", None)
    return {"use": text} if setting is None else {"use": name, setting: argument}


def _fields_of(entry: Entry | None) -> Mapping[str, Any]:
    return {} if entry is None else getattr(_schema_of(entry), "model_fields", {})


def _schema_of(entry: Entry) -> Any:
    path = entry.component.config
    return None if path is None else entry.imported(path)
