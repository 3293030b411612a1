"""Finds plugins. Whatever goes wrong with one is a value with an owner, never an exception that stops the others.

Each entry point of the group `penstock` names an import-light module that implements hooks of `spec.py`. Every plugin
is alone in pluggy's manager while it is asked: an exception in one cannot reach another, and what it returned is
attributed to the distribution that it came from.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TypeAlias, cast

import pluggy

from penstock.hooks import spec
from penstock.hooks.component import CONTRACT, KINDS, Component

GROUP = "penstock"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a plugin comes from."""

    distribution: str
    version: str
    entry_point: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plugin that works."""

    origin: Origin
    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """A plugin that could not be loaded, and why."""

    origin: Origin
    error: BaseException

    @property
    def cause(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, slots=True)
class Incompatible:
    """A plugin whose components ask for a contract that this release of hooks does not define."""

    origin: Origin
    components: tuple[Component, ...]

    @property
    def cause(self) -> str:
        asked = sorted({component.contract for component in self.components if component.contract != CONTRACT})
        return f"asks for contract {', '.join(map(str, asked))}; this release defines {CONTRACT}"


@dataclass(frozen=True, slots=True)
class Blocked:
    """A plugin that the user switched off."""

    origin: Origin

    @property
    def cause(self) -> str:
        return "blocked by the user"


Discovered: TypeAlias = Loaded | Broken | Incompatible | Blocked


def discover(blocked: Collection[str] = ()) -> tuple[Discovered, ...]:
    """Every installed plugin in a fixed order (distribution, then entry point). `blocked` names distributions."""
    off = {canonical(name) for name in blocked}
    found = [(_origin(point), point) for point in importlib.metadata.entry_points(group=GROUP)]
    found.sort(key=lambda pair: (pair[0].distribution, pair[0].entry_point))
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(spec)
    return tuple(
        Blocked(origin) if origin.distribution in off else _load_plugin(origin, point.load, manager)
        for origin, point in found
    )


def components_of(module: object) -> tuple[Component, ...]:
    """What a plugin module offers; raises whatever is wrong with it."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(spec)
    return _ask(module, manager)


def _load_plugin(origin: Origin, load: Callable[[], object], manager: pluggy.PluginManager) -> Discovered:
    """Imports one plugin by calling `load()`, asks all its hooks, and says how it went."""
    try:
        components = _ask(load(), manager)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, SystemExit included
        return Broken(origin, error)
    if any(component.contract != CONTRACT for component in components):
        return Incompatible(origin, components)
    return Loaded(origin, components)


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503).

    >>> canonical("Penstock_Moe.Core")
    'penstock-moe-core'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def _origin(point: importlib.metadata.EntryPoint) -> Origin:
    metadata = point.dist and point.dist.metadata  # a half-removed distribution has neither a name nor a version
    name, version = (metadata[key] if metadata and key in metadata else "unknown" for key in ("Name", "Version"))
    return Origin(canonical(name), version, point.name)


def _ask(module: object, manager: pluggy.PluginManager) -> tuple[Component, ...]:
    try:
        manager.register(module)
        manager.check_pending()  # a misspelt hook would otherwise be ignored without a word
        return tuple(component for kind, hook in KINDS.items() for component in _offered(module, manager, kind, hook))
    finally:
        if manager.is_registered(module):
            manager.unregister(module)


def _offered(module: object, manager: pluggy.PluginManager, kind: str, hook: str) -> Iterable[Component]:
    implementations: list[pluggy.HookImpl] = getattr(manager.hook, hook).get_hookimpls()
    if not implementations and inspect.isfunction(getattr(module, hook, None)):
        raise TypeError(f"function {hook} has the name of a hook, and no @hookimpl")
    for implementation in implementations:  # not called through pluggy, which drops an answer of None
        yield from _checked(implementation.function(), kind, hook)


def _checked(answer: object, kind: str, hook: str) -> Iterable[Component]:
    if not isinstance(answer, (list, tuple)):
        raise TypeError(f"hook {hook} must return a list of Component, not {type(answer).__name__}")
    seen: set[str] = set()
    for component in cast("Iterable[object]", answer):
        if not isinstance(component, Component):
            raise TypeError(f"hook {hook} must return a list of Component, and has {component!r}")
        if component.kind != kind:
            raise ValueError(f"hook {hook} yields kind '{kind}', and has '{component.name}' of kind '{component.kind}'")
        if component.name in seen:
            raise ValueError(f"hook {hook} has two components '{component.name}'")
        seen.add(component.name)
        yield component
