"""Sections of a run's config that apps provide: which are installed, and which package provides a missing one."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

from pydantic import Field, create_model

from penstock.hooks.known import FIRST_PARTY
from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.hooks.registry import Entry, Registry
from penstock.hooks.schema import Schema, schema_of

Envelope = TypeVar("Envelope", bound=Schema)


def installed_sections(registry: Registry, envelope: type[Schema]) -> dict[str, type[Schema]]:
    """The schema of each section by name. An unusable section is left out, so it only stops configs that write it;
    `missing_section` says why."""
    found: dict[str, type[Schema]] = {}
    for name in registry.names("section"):
        entry = registry.lookup("section", name)
        if entry is None or _name_problem(entry, envelope):
            continue
        try:
            found[name] = schema_of(entry)
        except ProblemError:
            continue
    return found


@lru_cache(maxsize=8)  # one class per set of apps, so that two configs can be equal
def with_sections(envelope: type[Envelope], sections: tuple[tuple[str, type[Schema]], ...]) -> type[Envelope]:
    """The envelope with a field for each section; a section that a config does not write takes its defaults."""
    fields: dict[str, Any] = {
        name: (schema, Field(default={}, validate_default=True, description=schema.__doc__))
        for name, schema in sections
    }
    return create_model(envelope.__name__, __base__=envelope, __doc__=envelope.__doc__, **fields)


def missing_section(name: str, where: str, envelope: type[Schema], registry: Registry) -> Problem | None:
    """Why the section `name` of a config cannot be read: its app is not installed, does not load, or two apps provide
    it. None if `name` does not look like a section at all."""
    try:
        entry = registry.get("section", name, where)
        schema_of(entry)
    except ProblemError as error:
        (problem,) = error.problems
        misspelt = did_you_mean(name, envelope.model_fields).startswith("did you mean")
        is_section = ("section", name) in FIRST_PARTY or (problem.code != "unknown-component" and not misspelt)
        return Problem(problem.code, problem.what, where, problem.fix) if is_section else None
    return _name_problem(entry, envelope, where)


def _name_problem(entry: Entry, envelope: type[Schema], where: str = "") -> Problem | None:
    """A section is an attribute of the config, so its name must be an identifier that is not taken."""
    name = entry.component.name
    if name.isidentifier() and name not in envelope.model_fields and not hasattr(envelope, name):
        return None
    what = f"section '{name}' of {entry.origin} has a name that is taken or not an identifier"
    return Problem("bad-section", what, where, "ask its authors to rename it")
