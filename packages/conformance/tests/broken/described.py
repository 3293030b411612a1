"""How the broken components are described: those of one kind alike, but for what a law needs to be otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from penstock.hooks import Component


def described(
    kind: str, summary: str, capabilities: frozenset[str] = frozenset(), config: str | None = None, contract: int = 1
) -> Callable[..., Component]:
    """A function that describes a class, or the "module:attribute" of something else, as a component of this kind."""
    usual = Component(kind, "broken", "broken:nothing", summary, config, capabilities, contract)

    def of(target: type | str, capabilities: frozenset[str] = capabilities, **changes: Any) -> Component:
        path = target if isinstance(target, str) else f"{target.__module__}:{target.__name__}"
        return replace(usual, target=path, capabilities=capabilities, **changes)

    return of
