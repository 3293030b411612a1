"""Validates a document against a schema: returns the config, or raises every problem at once with its line.

How values fit together is only known of values that are valid each. So a document with problems is validated again with
holes in the place of its refused values: what still does not fit is reported too, and what rests on a hole is not.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from penstock.hooks.document import ConfigDocument, Location, Value, below
from penstock.hooks.problems import ExitCode, Problem, ProblemError, did_you_mean
from penstock.hooks.registry import Entry, Registry
from penstock.hooks.schema import PROBLEM, Hole, NoSettings, Schema, schema_at, schema_of

Envelope = TypeVar("Envelope", bound=Schema)


def validate(
    schema: type[Envelope],
    document: ConfigDocument,
    registry: Registry,
    across: Callable[[Envelope], Iterable[Problem]] = lambda config: (),
) -> Envelope:
    """The validated config; raises one `ProblemError` with every problem, those of the file in the order of its lines,
    then those of the overrides, then those that `across` finds in a config with holes."""
    try:
        return schema.model_validate(document.value, context={"registry": registry})
    except ValidationError as error:
        found = [_located(schema, document, registry, details) for details in error.errors()]
    misfits, more = _despite(schema, document, registry, [location for location, _ in found], across)
    found += misfits
    order = {location: position for position, location in enumerate(document.sources)}
    found.sort(key=lambda pair: order.get(document.written(pair[0]), -1))
    problems = [problem for _, problem in found] + more
    plugin_failed = any(problem.code == "broken-plugin" for problem in problems)
    raise ProblemError(problems, ExitCode.PLUGIN if plugin_failed else ExitCode.USAGE)


def validate_settings(entry: Entry, fields: Mapping[str, Any], registry: Registry, where: str = "") -> Any:
    """One component's settings from plain values, outside any document; None if it takes no settings."""
    schema = schema_of(entry)
    name = where or f"{entry.component.kind} '{entry.component.name}'"
    settings = validate(schema, ConfigDocument(dict(fields), {(): name}, name), registry)
    return None if schema is NoSettings else settings


def _despite(
    schema: type[Envelope],
    document: ConfigDocument,
    registry: Registry,
    refused: Sequence[Location],
    across: Callable[[Envelope], Iterable[Problem]],
) -> tuple[list[tuple[Location, Problem]], list[Problem]]:
    """What does not fit together besides the refused values: in a schema, and across the config."""
    value = deepcopy(document.value)
    if not all(_make_hole(value, location) for location in refused):
        return [], []
    try:
        return [], list(across(schema.model_validate(value, context={"registry": registry})))
    except ValidationError as error:
        misfits = [each for each in error.errors() if each.get("ctx", {}).get("misfit")]
        found = [_located(schema, document, registry, details) for details in misfits]
        new = [location for location, _ in found if location not in refused]
        if not new:
            return [], []
        further, more = _despite(schema, document, registry, [*refused, *new], across)
        return found + further, more
    except Exception:  # of a validator that rests on a hole
        return [], []


def _make_hole(value: Any, location: Location) -> bool:
    """Puts a hole at a location, or in the place of the component or the list that it belongs to; False if the document
    has no such place."""
    path = list(location)
    while path and (path[-1] == "use" or isinstance(path[-1], int)):
        path.pop()
    for part in path[:-1]:
        value = value if isinstance(value, Hole) else below(value, part)
    if path and isinstance(value, dict):
        cast("dict[str, Any]", value)[str(path[-1])] = Hole()
    return bool(path) and isinstance(value, (dict, Hole))


def _located(
    root: type[Schema], document: ConfigDocument, registry: Registry, details: ErrorDetails
) -> tuple[Location, Problem]:
    problem = _problem(details)
    if details["type"] == "extra_forbidden":
        *outer, name = details["loc"]
        above = _without_tags(root, document, registry, tuple(outer))
        owner = schema_at(root, document.value, above, registry)
        problem = replace(problem, fix=did_you_mean(str(name), owner.model_fields if owner else ()))
        location = (*above, name)
    else:
        location = _without_tags(root, document, registry, details["loc"])
    return location, replace(problem, where=document.where(location))


def _without_tags(root: type[Schema], document: ConfigDocument, registry: Registry, location: Location) -> Location:
    """pydantic's location without the names that it inserts for members of unions: each remaining part is a key or
    item of the document, or a field that the document could have there."""
    kept: Location = ()
    here: Value = document.value
    for part in location:
        if (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int)):
            known = True
        else:
            owner = schema_at(root, document.value, kept, registry)
            known = owner is not None and part in owner.model_fields
        if known:
            kept = (*kept, part)
            here = below(here, part)
    return kept


def _problem(details: ErrorDetails) -> Problem:
    context: dict[str, Any] = details.get("ctx", {})
    match details["type"]:
        case kind if kind == PROBLEM:
            return context["problem"]
        case "extra_forbidden":
            return Problem("unknown-field", "unknown field")
        case "missing":
            return Problem("missing-field", "this field is required")
        case "value_error" | "assertion_error":
            return Problem("bad-value", str(context["error"]))
        case "model_type" | "dict_type" if details["input"] is None:
            return Problem(
                "bad-value",
                "must be a mapping of settings, not null",
                fix="write its settings, or remove the key if all of them have defaults",
            )
        case "tuple_type" | "list_type":
            return Problem("bad-value", f"must be a list, not {_short(details['input'])}")
        case "too_short" if not details["input"]:
            return Problem("bad-value", f"must not be empty, give at least {context['min_length']}")
        case "model_type" | "dict_type":
            return Problem("bad-value", f"must be a mapping of settings, not {_short(details['input'])}")
        case _:
            message = details["msg"][:1].lower() + details["msg"][1:]
            wrong = "" if isinstance(details["input"], Mapping) else f", not {_short(details['input'])}"
            return Problem("bad-value", message + wrong)


def _short(value: object) -> str:
    if value is None:
        return "null"
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 80
    return shortener.repr(value)
