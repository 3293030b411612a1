"""Names to components: `registry.build("router", {"use": "sigmoid-topk", "k": 2}, hidden_size=64, experts=8)`.

A component's canonical id is `distribution:name`; the short name is enough if only one distribution offers it. The
short name of a first-party component (`known.py`) always means that component: a third-party component with the same
name is reached by its id, and `warn` reports the clash. A `Registry` is a value that is passed on; nothing is global.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

from penstock.hooks.component import KINDS, Component, load_attribute
from penstock.hooks.discovery import Broken, Discovered, Incompatible, Loaded, Origin, Selection, discover
from penstock.hooks.installed import canonical
from penstock.hooks.known import FIRST_PARTY
from penstock.hooks.problems import ExitCode, Problem, ProblemError, did_you_mean


@dataclass(frozen=True, slots=True)
class Entry:
    """A component and who provides it."""

    component: Component
    origin: Origin

    @property
    def id(self) -> str:
        return f"{self.origin.distribution}:{self.component.name}"

    def imported(self, path: str) -> Any:
        """The object behind the component's "module:attribute"; raises `ProblemError` if it cannot be imported."""
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results
                return load_attribute(path)
        except Exception as error:  # importing a plugin runs its code, which may raise anything
            raise ProblemError(broken(self, error), ExitCode.PLUGIN) from error


@dataclass(frozen=True, slots=True)
class Choice:
    """A validated `{use: NAME, **settings}`: the component, and its settings as its schema's instance (or None)."""

    entry: Entry
    settings: Any = None

    def arguments(self) -> dict[str, Any]:
        """The settings as keyword arguments of the component's target."""
        return {} if self.settings is None else dict(self.settings)

    def build(self, **context: Any) -> Any:
        """Imports the target and calls it with settings and context; raises `ProblemError` if the import fails."""
        target = self.entry.imported(self.entry.component.target)
        with redirect_stdout(sys.stderr):
            return target(**self.arguments(), **context)


def names_of(choices: Sequence[Choice]) -> list[str]:
    """A name of its own for each choice, in results and logs: that of the component, and `text-2` for the second
    `text`, whether it is the same component or one of another distribution."""
    names: list[str] = []
    for choice in choices:
        short = choice.entry.component.name
        numbered = (f"{short}-{number}" for number in range(2, len(choices) + 2))
        names.append(next(name for name in (short, *numbered) if name not in names))
    return names


class Registry:
    """All components of the loaded plugins, by kind and name."""

    def __init__(
        self,
        plugins: Iterable[Discovered],
        selection: Selection | None = None,
        warn: Callable[[str], object] = warnings.warn,
    ) -> None:
        self.plugins = tuple(plugins)
        self.selection = selection or Selection()
        self._warn = warn
        self._entries: dict[str, dict[str, list[Entry]]] = {kind: {} for kind in KINDS}
        for plugin in sorted(self.plugins, key=lambda plugin: plugin.origin.distribution):
            if isinstance(plugin, Loaded):
                for component in plugin.components:
                    self._entries[component.kind].setdefault(component.name, []).append(Entry(component, plugin.origin))

    @classmethod
    def discover(cls, selection: Selection | None = None, warn: Callable[[str], object] = warnings.warn) -> Registry:
        """The registry of what is installed and selected. `warn` is called when a short name could mean two
        components."""
        return cls(discover(selection), selection, warn)

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Every component (of a kind), sorted by kind, name and distribution."""
        kinds = KINDS if kind is None else [kind]
        return [entry for each in kinds for name in self.names(each) for entry in self._of(each)[name]]

    def names(self, kind: str) -> list[str]:
        """The short names of a kind, sorted."""
        return sorted(self._of(kind))

    def get(self, kind: str, name: str, where: str = "") -> Entry:
        """The component behind a short name or `distribution:name`; raises `ProblemError` that names
        the known components, the package that would provide it, or the two distributions that claim the name."""
        return self.find([kind], name, where)

    def find(self, kinds: Sequence[str], name: str, where: str = "") -> Entry:
        """Like `get`, for a place that accepts components of several kinds."""
        candidates = self._candidates(kinds, name)
        if len(candidates) == 1:
            self._say_who_else(candidates[0], name)
            return candidates[0]
        problem = _ambiguous(name, candidates) if candidates else self._missing(kinds, name)
        exit_code = ExitCode.PLUGIN if problem.code == "broken-plugin" else ExitCode.USAGE
        raise ProblemError(replace(problem, where=where), exit_code)

    def lookup(self, kind: str, name: str) -> Entry | None:
        """The component that a name stands for, or None if it stands for none or several. Never warns or raises."""
        candidates = self._candidates([kind], name)
        return candidates[0] if len(candidates) == 1 else None

    def name_of(self, entry: Entry) -> str:
        """What to write for a component: its short name if that is unambiguous, its id otherwise."""
        short = entry.component.name
        return short if self.lookup(entry.component.kind, short) == entry else entry.id

    def owner_of(self, entry: Entry) -> Entry | None:
        """The first-party component with the same short name as a third-party one, or None."""
        owner = FIRST_PARTY.get((entry.component.kind, entry.component.name))
        if owner is None or owner == entry.origin.distribution:
            return None
        return self.lookup(entry.component.kind, entry.component.name)

    def _candidates(self, kinds: Sequence[str], name: str) -> list[Entry]:
        """The components that `name` may mean. A short name of a first-party component means only that component, so
        that the meaning of a config does not depend on what else is installed."""
        distribution, _, short = name.rpartition(":")
        owners = {kind: canonical(distribution) if distribution else FIRST_PARTY.get((kind, short)) for kind in kinds}
        return [
            entry
            for kind in kinds
            for entry in self._of(kind).get(short, [])
            if owners[kind] is None or entry.origin.distribution == owners[kind]
        ]

    def _say_who_else(self, entry: Entry, name: str) -> None:
        others = [] if ":" in name else [e for e in self._of(entry.component.kind)[name] if e != entry]
        if others:
            theirs = " and ".join(f"{other.origin.place}, written `{other.id}`" for other in others)
            self._warn(
                f"{entry.component.kind} '{name}' comes from {entry.origin.place}; another one comes from {theirs}"
            )

    def choose(self, kind: str, settings: str | Mapping[str, Any], where: str = "") -> Choice:
        """Validates `"name"` or `{"use": "name", **settings}` against the component's own schema."""
        from penstock.hooks.config import validate_settings

        fields: dict[str, Any] = {"use": settings} if isinstance(settings, str) else dict(settings)
        name = fields.pop("use", None)
        if not isinstance(name, str):
            what = f"must be the name of a component of kind '{kind}', or a mapping with `use: NAME`"
            raise ProblemError(Problem("bad-value", what, where))
        entry = self.get(kind, name, where)
        return Choice(entry, validate_settings(entry, fields, self, where))

    def build(self, kind: str, settings: str | Mapping[str, Any], **context: Any) -> Any:
        """`choose`, then build: the one call from a name to a working object."""
        return self.choose(kind, settings).build(**context)

    def _of(self, kind: str) -> dict[str, list[Entry]]:
        if kind not in KINDS:
            raise ValueError(f"unknown kind '{kind}', {did_you_mean(kind, KINDS)}")
        return self._entries[kind]

    def _missing(self, kinds: Sequence[str], name: str) -> Problem:
        distribution, _, short = name.rpartition(":")
        sort = " or ".join(kinds)
        ours = next((FIRST_PARTY[kind, short] for kind in kinds if (kind, short) in FIRST_PARTY), None)
        package = canonical(distribution) if distribution else ours
        unusable = [plugin for plugin in self.plugins if not isinstance(plugin, Loaded)]
        for plugin in unusable:
            offered = plugin.components if isinstance(plugin, Incompatible) else ()
            offers = any(component.kind in kinds and component.name == short for component in offered)
            if plugin.origin.distribution == package or (offers and package is None):
                what = f"{sort} '{name}' is not usable"
                return Problem("broken-plugin", what, fix=f"{plugin.origin.place}: {plugin.cause}")
        what, hints = f"unknown {sort} '{name}'", self._hints(kinds, name, package, ours)
        unknown = [] if package else [plugin for plugin in unusable if not isinstance(plugin, Incompatible)]
        if not unknown:
            return Problem("unknown-component", what, fix=", ".join(hints))
        # A plugin that does not load cannot say what it offers. A name close to a known one is probably misspelt; any
        # other name more likely belongs to such a plugin.
        misspelt = any(hint.startswith("did you mean") for hint in hints)
        hints += [f"{plugin.origin.place} may provide it, but did not load ({plugin.cause})" for plugin in unknown]
        return Problem("unknown-component" if misspelt else "broken-plugin", what, fix=", ".join(hints))

    def _hints(self, kinds: Sequence[str], name: str, package: str | None, ours: str | None) -> list[str]:
        """Which package would provide a missing component, or which name was probably meant."""
        distribution, _, short = name.rpartition(":")
        installed = {plugin.origin.distribution for plugin in self.plugins}
        entries = [entry for kind in kinds for entry in self.entries(kind)]
        if package == ours and ours is not None and ours not in installed:
            others = [entry.id for entry in entries if entry.component.name == short]
            return [f"`uv add {ours}` provides it", *(f"`{other}` is another one" for other in others)]
        hints = [] if package is None or package in installed else [f"no plugin of '{package}' is installed"]
        hints.append(did_you_mean(name, [entry.id if distribution else self.name_of(entry) for entry in entries]))
        return list(filter(None, hints))


def broken(entry: Entry, error: Exception) -> Problem:
    """The problem of a component whose code cannot be imported."""
    component, plugin = entry.component, Broken(entry.origin, error)
    what = f"{component.kind} '{component.name}' is not usable"
    return Problem("broken-plugin", what, fix=f"{plugin.origin.place}: {plugin.cause}{_to_install(entry, error)}")


def _to_install(entry: Entry, error: Exception) -> str:
    """What to install for a module that was not found; empty for other errors."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    package = error.name.partition(".")[0]
    if entry.origin.is_file and package == entry.component.target.partition(":")[0].partition(".")[0]:
        return "; the file is part of a package: install that with `uv pip install --editable FOLDER`, without --plugin"
    return f"; install the package that has `{package}`"


def _ambiguous(name: str, entries: Sequence[Entry]) -> Problem:
    kinds = " or ".join(dict.fromkeys(entry.component.kind for entry in entries))
    owners = " and ".join(entry.origin.place for entry in entries)
    ids = list(dict.fromkeys(entry.id for entry in entries))
    if len(ids) == len(entries):
        fix = "write " + " or ".join(f"`use: {each}`" for each in ids)
    else:
        fix = "one distribution offers the name twice, which only its authors can fix"
    return Problem("ambiguous-component", f"{kinds} '{name}' is provided by {owners}", fix=fix)
