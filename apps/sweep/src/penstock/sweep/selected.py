"""The plugins of a sweep in a worker: those that were selected where it was started."""

from __future__ import annotations

from typing import Any

from penstock.hooks.discovery import Selection
from penstock.hooks.registry import Registry


def registry_of(selection: dict[str, Any]) -> Registry:
    """The registry of a `Selection` that came as JSON."""
    arguments: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in selection.items()
    }
    return Registry.discover(Selection(**arguments))
