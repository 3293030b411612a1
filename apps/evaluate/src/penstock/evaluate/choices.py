"""Components named on a command line."""

from __future__ import annotations

from penstock.hooks.config import parse_config
from penstock.hooks.registry import Choice, Registry


def choose(registry: Registry, kind: str, text: str) -> Choice:
    """The component of `kind` that `text` names: NAME, or {use: NAME, ...}."""
    return registry.choose(kind, parse_config(f"value: {text}").value["value"], f"--{kind}")
