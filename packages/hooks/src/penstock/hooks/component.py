"""A component is a frozen description of something that a plugin offers; nothing heavy is imported to make one."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from typing import Any

# Kind -> the pluggy hook that yields components of that kind. One hook per kind, listed in `spec.py`.
KINDS: dict[str, str] = {
    "architecture": "architectures",
    "router": "routers",
    "balance-loss": "balance_losses",
    "balancer": "balancers",
    "quantizer": "quantizers",
    "sharing": "sharing",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "objective": "objectives",
    "engine": "engines",
    "corpus": "corpora",
    "filter": "filters",
    "cleaner": "cleaners",
    "task": "tasks",
    "topology": "topologies",
    "placement": "placements",
    "exporter": "exporters",
    "server": "servers",
    "launcher": "launchers",
    "stop-rule": "stop_rules",
    "tracker": "trackers",
    "observer": "observers",
    "section": "sections",
    "command": "commands",
}


@dataclass(frozen=True, slots=True)
class Window:
    """The versions of a contract that a release of hooks supports.

    >>> 2 in Window(1, 3), str(Window(1, 3)), str(Window(1, 1))
    (True, '1 to 3', '1')
    """

    oldest: int
    newest: int

    def __contains__(self, version: int) -> bool:
        return self.oldest <= version <= self.newest

    def __str__(self) -> str:
        return str(self.newest) if self.oldest == self.newest else f"{self.oldest} to {self.newest}"


# Kind -> the versions of its contract that this release supports. A component that asks for another one is reported as
# incompatible and never built. Whoever raises `newest` keeps the plugins under tests/compat working, or raises
# `oldest` and says so.
CONTRACTS: dict[str, Window] = {
    **dict.fromkeys(KINDS, Window(1, 1)),
    "architecture": Window(1, 2),  # 2: a model reads `Inputs`; one of 1 is called with tokens alone
    "exporter": Window(1, 2),  # 2: told of the run, and may write a single file
    "engine": Window(2, 2),  # in the first, an engine served a model: that kind is `server` now
    "optimizer": Window(1, 2),  # 2: also called with `layouts`
    "quantizer": Window(1, 2),  # 2: a module for each weight, instead of one function
    "schedule": Window(1, 2),  # 2: also called with `tokens`
    "server": Window(2, 2),  # in the first, a server was a command line of folder and port, which no command started
    "sharing": Window(1, 3),  # 2: applied to weight sites, with parameters of its own; 3: to any model and its modules
    "task": Window(1, 2),
}


@dataclass(frozen=True, slots=True)
class Component:
    """What a plugin offers under a name.

    `target` and `config` are "module:attribute" strings, imported on first use. `config` names a pydantic model
    (a `Schema`) whose fields are the keyword arguments of `target`: `Registry.build` calls
    `target(**fields, **context)`, so a component is used from plain Python exactly as it is used from a config.

    `contract` is the version of its kind's contract that it was written against. The default is the first version: a
    default that grew with hooks would make a promise on behalf of an author who never saw the new contract.

    >>> Component(kind="router", name="mine", target="my_package:MyRouter", summary="Routes my way.").target
    'my_package:MyRouter'
    """

    kind: str
    name: str
    target: str
    summary: str
    config: str | None = None
    capabilities: frozenset[str] = field(default_factory=lambda: frozenset[str]())
    contract: int = 1
    reference: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"component '{self.name}': unknown kind '{self.kind}'; known kinds: {', '.join(KINDS)}")
        if not self.name or any(sign in self.name for sign in ": \t\n"):
            raise ValueError(f"component '{self.name}': a name must not be empty or contain a colon or whitespace")
        for label, value in (("target", self.target), ("config", self.config)):
            if value is not None and not re.fullmatch(r"[\w.]+:\w+", value):
                raise ValueError(f"component '{self.name}': {label} must be 'module:attribute', not '{value}'")
        self._check_types()

    def _check_types(self) -> None:
        """Checks the types of what lists and help print: an untyped plugin must not break them."""
        needed: dict[str, type] = {"summary": str, "reference": str, "capabilities": frozenset, "contract": int}
        for label, kind in needed.items():
            value: object = getattr(self, label)
            if not isinstance(value, kind):
                raise TypeError(f"component '{self.name}': {label} must be a {kind.__name__}, not {value!r}")

    def load_target(self) -> Any:
        """Imports and returns the class or function that builds the component."""
        return load_attribute(self.target)

    def load_config(self) -> Any:
        """Imports and returns the component's schema, or None if it takes no settings."""
        return None if self.config is None else load_attribute(self.config)


def load_attribute(path: str) -> Any:
    """The object behind "module:attribute"; raises ImportError or AttributeError if the import fails."""
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)
