"""Names to components: `registry.build("router", {"use": "sigmoid-topk", "k": 2}, hidden_size=64, experts=8)`.

A component's canonical id is `distribution:name`; the short name is enough while one distribution alone offers it. A
`Registry` is a value: it is passed on, and nothing is global.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.hooks.component import KINDS, Component, load_attribute
from penstock.hooks.discovery import Broken, Discovered, Incompatible, Loaded, Origin, canonical, discover
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
        """What the component's "module:attribute" stands for; raises `ProblemError` where it cannot be imported."""
        try:
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
        """Imports the target and calls it with settings and context; raises `ProblemError` where it cannot be
        imported."""
        return self.entry.imported(self.entry.component.target)(**self.arguments(), **context)


class Registry:
    """All components of the loaded plugins, by kind and name."""

    def __init__(self, plugins: Iterable[Discovered]) -> None:
        self.plugins = tuple(plugins)
        self._entries: dict[str, dict[str, list[Entry]]] = {kind: {} for kind in KINDS}
        for plugin in sorted(self.plugins, key=lambda plugin: plugin.origin.distribution):
            if isinstance(plugin, Loaded):
                for component in plugin.components:
                    self._entries[component.kind].setdefault(component.name, []).append(Entry(component, plugin.origin))

    @classmethod
    def discover(cls, blocked: Iterable[str] = ()) -> Registry:
        """The registry of what is installed."""
        return cls(discover(frozenset(blocked)))

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Every component (of a kind), sorted by kind, name and distribution."""
        kinds = KINDS if kind is None else [kind]
        return [entry for each in kinds for name in self.names(each) for entry in self._of(each)[name]]

    def names(self, kind: str) -> list[str]:
        """The short names of a kind, sorted."""
        return sorted(self._of(kind))

    def get(self, kind: str, name: str, where: str = "") -> Entry:
        """The component behind a short name or `distribution:name`; raises `ProblemError` that says
        what is known, which package would provide it, or which two distributions claim the name."""
        return self.find([kind], name, where)

    def find(self, kinds: Sequence[str], name: str, where: str = "") -> Entry:
        """`get` where a component of any of some kinds may stand."""
        distribution, _, short = name.rpartition(":")
        candidates = [entry for kind in kinds for entry in self._of(kind).get(short, [])]
        if distribution:
            candidates = [entry for entry in candidates if entry.origin.distribution == canonical(distribution)]
        if len(candidates) == 1:
            return candidates[0]
        problem = _ambiguous(name, candidates) if candidates else self._missing(kinds, name)
        exit_code = ExitCode.PLUGIN if problem.code == "broken-plugin" else ExitCode.USAGE
        raise ProblemError(replace(problem, where=where), exit_code)

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
            raise ValueError(f"there is no kind '{kind}', {did_you_mean(kind, KINDS)}")
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
            if plugin.origin.distribution == package or (offers and not distribution):
                what = f"{sort} '{name}' is not usable"
                return Problem("broken-plugin", what, fix=f"{plugin.origin}: {plugin.cause}")
        installed = {plugin.origin.distribution for plugin in self.plugins}
        hints: list[str] = []
        if package == ours and ours is not None and ours not in installed:
            hints.append(f"`uv add {ours}` provides it")
        else:
            if package is not None and package not in installed:
                hints.append(f"no plugin of '{package}' is installed")
            entries = [entry for kind in kinds for entry in self.entries(kind)]
            hints.append(did_you_mean(name, [entry.id if distribution else entry.component.name for entry in entries]))
            if unusable:
                hints.append(f"{len(unusable)} plugin(s) did not load, see `penstock plugins list`")
        return Problem("unknown-component", f"there is no {sort} '{name}'", fix=", ".join(filter(None, hints)))


def broken(entry: Entry, error: Exception) -> Problem:
    """The problem that a component has whose code cannot be imported."""
    component, plugin = entry.component, Broken(entry.origin, error)
    what = f"{component.kind} '{component.name}' is not usable"
    return Problem("broken-plugin", what, fix=f"{plugin.origin}: {plugin.cause}")


def _ambiguous(name: str, entries: Sequence[Entry]) -> Problem:
    kinds = " or ".join(dict.fromkeys(entry.component.kind for entry in entries))
    owners = " and ".join(str(entry.origin) for entry in entries)
    ids = list(dict.fromkeys(entry.id for entry in entries))
    if len(ids) == len(entries):
        fix = "write " + " or ".join(f"`use: {each}`" for each in ids)
    else:
        fix = "one distribution offers the name twice, which only its authors can mend"
    return Problem("ambiguous-component", f"{kinds} '{name}' is provided by {owners}", fix=fix)
