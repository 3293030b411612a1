"""Finds plugins. A failure in one is a value with an owner, never an exception that stops the others.

Each entry point of the group `penstock` names an import-light module that implements hooks of `spec.py`. Only one
plugin at a time is registered in pluggy's manager: an exception in one cannot reach another, and what it returns is
attributed to its own distribution.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast

import pluggy

from penstock.hooks import installed, spec
from penstock.hooks.component import CONTRACTS, KINDS, Component
from penstock.hooks.installed import canonical
from penstock.hooks.known import FIRST_PARTY
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.hooks.single_file import PluginFile

GROUP = "penstock"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a plugin comes from. Of a plugin file, `version` is a hash and `entry_point` the path."""

    distribution: str
    version: str
    entry_point: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"

    @property
    def is_file(self) -> bool:
        return self.entry_point.endswith(".py")

    @property
    def place(self) -> str:
        """What a user calls it: a distribution and its version, or the path of a file."""
        return self.entry_point if self.is_file else str(self)


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
        """The error on one line."""
        try:
            text = str(self.error)
        except Exception as error:  # a plugin may bring its own exceptions, broken ones included
            text = f"its message cannot be read ({type(error).__name__})"
        return " ".join(f"{type(self.error).__name__}: {text}".split())


@dataclass(frozen=True, slots=True)
class Incompatible:
    """A plugin whose components need a contract version that this release of hooks does not support."""

    origin: Origin
    components: tuple[Component, ...]

    @property
    def cause(self) -> str:
        return "; ".join(
            f"{component.kind} '{component.name}' needs contract {component.contract}, "
            f"but this release supports {CONTRACTS[component.kind]}{_since(component)}"
            for component in self.components
            if not _supported(component)
        )


@dataclass(frozen=True, slots=True)
class Blocked:
    """A plugin that the user switched off, and how."""

    origin: Origin
    cause: str = "blocked by the user"


Discovered: TypeAlias = Loaded | Broken | Incompatible | Blocked


@dataclass(frozen=True, slots=True)
class Selection:
    """Which third-party plugins to load in addition to our own, and which files to load as plugins.

    `no_plugins` loads only our own plugins (those of `known.py`) and the files. `only` names the third-party
    distributions to load; if empty, all are loaded. `blocked` names distributions not to load, ours included.
    """

    no_plugins: bool = False
    only: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Selection:
        """The selection whose fields JSON has carried to another process, which made lists of its tuples."""
        return cls(value["no_plugins"], *(tuple[str, ...](value[name]) for name in ("only", "files", "blocked")))

    def arguments(self) -> list[str]:
        """The equivalent options of `penstock`."""
        named = [("--only", name) for name in self.only] + [("--plugin", file) for file in self.files]
        return ["--no-plugins"] * self.no_plugins + [word for pair in named for word in pair]

    def cause_against(self, distribution: str) -> str | None:
        """Why an installed distribution's plugins are not loaded, or None if they are."""
        if distribution in map(canonical, self.blocked):
            return "blocked by the user"
        if distribution in FIRST_PARTY.values():
            return None
        if self.no_plugins:
            return "switched off by --no-plugins"
        if self.only and distribution not in map(canonical, self.only):
            return f"not among --only {', '.join(self.only)}"
        return None


def discover(selection: Selection | None = None) -> tuple[Discovered, ...]:
    """Every plugin in a fixed order (distribution, then entry point). Raises `ProblemError` if the selection names
    a file that cannot be read or whose name is taken, or a distribution without plugins."""
    wanted = selection or Selection()
    points = list(_installed())
    _require_installed(wanted.only, {origin.distribution for origin, _ in points})
    found = [(origin, load, wanted.cause_against(origin.distribution)) for origin, load in points]
    found += [(origin, load, None) for origin, load in _files(wanted.files)]
    found.sort(key=lambda plugin: (plugin[0].distribution, plugin[0].entry_point))
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(spec)
    return tuple(
        _load_plugin(origin, load, manager) if against is None else Blocked(origin, against)
        for origin, load, against in found
    )


def components_of(module: object) -> tuple[Component, ...]:
    """The components that a plugin module offers; raises if anything is wrong with it."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(spec)
    return _ask(module, manager)


def _installed() -> Iterator[tuple[Origin, Callable[[], object]]]:
    """The plugins of installed distributions, and as a plugin that does not load what cannot be read of others."""
    for offer in installed.offers(GROUP):
        for point in offer.points:
            yield Origin(offer.distribution, offer.version, point.name), partial(installed.load, point)
        if offer.error:
            origin = Origin(offer.distribution, offer.version, installed.ENTRY_POINTS)
            yield origin, partial(_refuse, f"its {installed.ENTRY_POINTS} cannot be read ({offer.error})")


def _refuse(why: str) -> object:
    raise ValueError(why)


def _files(names: Iterable[str]) -> Iterator[tuple[Origin, Callable[[], object]]]:
    files = {name: PluginFile.read(name) for name in names}
    for module, count in Counter(file.module for file in files.values()).items():
        if count > 1:
            where = ", ".join(name for name, file in files.items() if file.module == module)
            raise ProblemError(Problem("plugin-file-clash", f"{count} plugin files are named '{module}'", where))
    for name, file in files.items():
        yield Origin(canonical(file.module), file.version, name), file.load


def _require_installed(names: Iterable[str], installed: set[str]) -> None:
    others = installed.difference(FIRST_PARTY.values())
    problems = [
        Problem(
            "unknown-plugin", f"no plugin of '{name}' is installed", "--only", did_you_mean(canonical(name), others)
        )
        for name in names
        if canonical(name) not in installed
    ]
    if problems:
        raise ProblemError(problems)


def _load_plugin(origin: Origin, load: Callable[[], object], manager: pluggy.PluginManager) -> Discovered:
    """Imports one plugin by calling `load()`, calls all its hooks, and returns the outcome."""
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results
            components = _ask(load(), manager)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, SystemExit included
        return Broken(origin, error)
    return Loaded(origin, components) if all(map(_supported, components)) else Incompatible(origin, components)


def _since(component: Component) -> str:
    """What became of the contract that a component was written against."""
    servers = component.kind == "engine" and component.contract == 1
    return ": what serves a model is a 'server' now" if servers else ""


def _supported(component: Component) -> bool:
    return component.contract in CONTRACTS[component.kind]


def _ask(module: object, manager: pluggy.PluginManager) -> tuple[Component, ...]:
    try:
        manager.register(module)
        callers = {caller.name: caller for caller in manager.get_hookcallers(module) or ()}
        _check_hooks_exist(callers.values())
        return tuple(
            component for kind, hook in KINDS.items() for component in _offered(module, callers.get(hook), kind, hook)
        )
    finally:
        if manager.is_registered(module):
            manager.unregister(module)


def _check_hooks_exist(callers: Iterable[pluggy.HookCaller]) -> None:
    """Like pluggy's `check_pending`, but for this plugin only and with a hint: a misspelt hook would otherwise be
    silently ignored."""
    for caller in callers:
        if not caller.has_spec() and not all(implementation.optionalhook for implementation in caller.get_hookimpls()):
            raise TypeError(f"unknown hook '{caller.name}', {did_you_mean(caller.name, KINDS.values())}")


def _offered(module: object, caller: pluggy.HookCaller | None, kind: str, hook: str) -> Iterable[Component]:
    implementations = caller.get_hookimpls() if caller else []
    if not implementations and inspect.isfunction(getattr(module, hook, None)):
        raise TypeError(f"function {hook} has the name of a hook but no @hookimpl")
    for implementation in implementations:  # not called through pluggy, which drops an answer of None
        yield from _checked(implementation.function(), kind, hook)


def _checked(answer: object, kind: str, hook: str) -> Iterable[Component]:
    if not isinstance(answer, (list, tuple)):
        raise TypeError(f"hook {hook} must return a list of Component, not {type(answer).__name__}")
    seen: set[str] = set()
    for component in cast("Iterable[object]", answer):
        if not isinstance(component, Component):
            raise TypeError(f"hook {hook} must return a list of Component, but it contains {component!r}")
        if component.kind != kind:
            raise ValueError(f"hook {hook} yields kind '{kind}', but '{component.name}' is of kind '{component.kind}'")
        if component.name in seen:
            raise ValueError(f"hook {hook} has two components '{component.name}'")
        seen.add(component.name)
        yield component
