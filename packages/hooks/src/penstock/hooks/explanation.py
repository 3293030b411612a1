"""What set each value of a config: a line, an override, a preset, or the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock.hooks.document import ConfigDocument, Location, Value, dotted
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.hooks.registry import Registry
from penstock.hooks.schema import Schema, schema_at


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved value and what set it."""

    path: str
    value: Any
    source: str


def explain(config: Schema, document: ConfigDocument, registry: Registry, prefix: str = "") -> list[Setting]:
    """Every resolved value at or below `prefix`, with the line, override, preset or default that set it; raises
    `ProblemError` if no value has that path."""
    leaves = _leaves(config.model_dump(mode="json"), ())
    below = [leaf for leaf in leaves if not prefix or f"{dotted(leaf[0])}.".startswith(f"{prefix}.")]
    if not below:
        known = {dotted(location[:length]) for location, _ in leaves for length in range(1, len(location) + 1)}
        hint = _nearest(prefix, known)
        raise ProblemError(Problem("unknown-path", f"the config has no '{prefix}'", document.name, hint))
    root = type(config)
    return [Setting(dotted(at), value, _source(root, document, registry, at)) for at, value in below]


def _nearest(prefix: str, known: set[str]) -> str:
    """A hint for an unknown path: the names below the last of its beginnings that exists."""
    above, wrong = prefix, ""
    while above and above not in known:
        above, _, wrong = above.rpartition(".")
    return did_you_mean(wrong, [path.rpartition(".")[2] for path in known if path.rpartition(".")[0] == above])


def _leaves(value: Value, at: Location) -> list[tuple[Location, Value]]:
    """The plain values below `at`; an empty mapping and a list of plain values count as one."""
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*at, key))]
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return [leaf for position, item in enumerate(value) for leaf in _leaves(item, (*at, position))]
    return [(at, value)]


def _source(root: type[Schema], document: ConfigDocument, registry: Registry, location: Location) -> str:
    written = document.written(location)
    source = document.sources.get(written, document.name)
    if written == location:
        return source
    part = location[len(written)]
    above: Value = document.at(written)
    owner = schema_at(root, document.value, written, registry)
    if owner is None or (isinstance(above, str) and part == "use"):
        return source  # a plain value that the schema took apart, or a component's bare name
    giver = owner.giver(above, str(part)) if isinstance(above, dict) else None
    return giver or "default"
