"""Sections of a run's config that apps offer: which are installed, and which package has one that is not."""

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
    """The schema of each section by name. One that cannot be used is left out, so that it stops the configs alone that
    write it: `missing_section` says why."""
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


@lru_cache(maxsize=8)  # a class is made once for the same apps, so that two configs of them can be equal
def with_sections(envelope: type[Envelope], sections: tuple[tuple[str, type[Schema]], ...]) -> type[Envelope]:
    """The envelope with a field for each section, which takes its defaults where a config does not write it."""
    fields: dict[str, Any] = {
        name: (schema, Field(default={}, validate_default=True, description=schema.__doc__))
        for name, schema in sections
    }
    return create_model(envelope.__name__, __base__=envelope, __doc__=envelope.__doc__, **fields)


def missing_section(name: str, where: str, envelope: type[Schema], registry: Registry) -> Problem | None:
    """Why a config's key `name` is no section that can be read: its app is not installed, does not load, or is one of
    two. None where nothing says that it is a section at all."""
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
    """A section is an attribute of the config, beside those that every config has."""
    name = entry.component.name
    if name.isidentifier() and name not in envelope.model_fields and not hasattr(envelope, name):
        return None
    what = f"section '{name}' of {entry.origin} cannot be an attribute of the config"
    return Problem("bad-section", what, where, "ask its authors for another name")
