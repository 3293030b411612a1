"""Components named on a command line."""

from __future__ import annotations

from typing import Any

from penstock.hooks.config import parse_config
from penstock.hooks.registry import Choice, Registry


def choose(registry: Registry, kind: str, text: str | dict[str, Any]) -> Choice:
    """The component of `kind` that `text` names: NAME, or {use: NAME, ...}, as text or as read from it."""
    settings = parse_config(f"value: {text}").value["value"] if isinstance(text, str) else text
    return registry.choose(kind, settings, f"--{kind}")
