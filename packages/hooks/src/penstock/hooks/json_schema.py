"""JSON Schema of a config with every installed component merged in, so that editors complete and check it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from penstock.hooks.component import KINDS
from penstock.hooks.registry import Choice, Entry, Registry
from penstock.hooks.schema import KIND_MARK, Schema, schema_of, written_out


def json_schema(schema: type[Schema], registry: Registry) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a config; raises `ProblemError` where a component's schema cannot be imported.

    `$defs` has one entry per kind: the values allowed where a component of that kind is named. It decides by `use`
    (`if`, `then`), so that an editor reports a wrong field at the field: of a list of alternatives it would report that
    none fits.
    """
    owners = {entry: schema_of(entry) for entry in registry.entries()}
    models = list(dict.fromkeys([schema, *owners.values()]))
    # one generator for all, because two plugins may give their models the same name
    references, generated = models_json_schema([(model, "validation") for model in models], schema_generator=_Generator)
    definitions: dict[str, Any] = generated["$defs"]
    own = {model: definitions[references[model, "validation"]["$ref"].rpartition("/")[2]] for model in models}
    settings = {entry: own[owner] for entry, owner in owners.items()}
    places = [(kind,) for kind in KINDS] + sorted(_places(definitions))
    for kinds in dict.fromkeys(places):
        definitions[_name(kinds)] = _choice([entry for kind in kinds for entry in registry.entries(kind)], settings)
    return cast("dict[str, Any]", _with_references({**own[schema], "$defs": definitions}))


def _name(kinds: Sequence[str]) -> str:
    return "-or-".join(kinds)


def _places(value: object) -> set[tuple[str, ...]]:
    """The kinds of every place that takes a component of several kinds."""
    found: set[tuple[str, ...]] = set()
    if isinstance(value, list):
        return found.union(*map(_places, cast("list[object]", value)))
    if not isinstance(value, dict):
        return found
    fields = cast("dict[str, object]", value)
    own = tuple(cast("list[str]", fields.get(KIND_MARK, [])))
    return found.union({own} if len(own) > 1 else set(), *map(_places, fields.values()))


def _choice(entries: Sequence[Entry], settings: Mapping[Entry, JsonSchemaValue]) -> JsonSchemaValue:
    """A component as a mapping, or as its bare name if it needs no settings."""
    if not entries:
        return {"not": {}}
    names = {entry: _names(entry, entries) for entry in entries}
    bare = {entry: names[entry] for entry in entries if not settings[entry].get("required")}
    return {
        "if": {"type": "object"},
        "then": {
            "required": ["use"],
            "properties": {"use": _one_of(names)},
            "allOf": [_settings_of(names[entry], settings[entry]) for entry in entries],
        },
        "else": _one_of(bare),
    }


def _names(entry: Entry, entries: Sequence[Entry]) -> list[str]:
    alone = sum(other.component.name == entry.component.name for other in entries) == 1
    return [entry.component.name, entry.id] if alone else [entry.id]


def _one_of(names: Mapping[Entry, Sequence[str]]) -> JsonSchemaValue:
    """A list of names; editors that know the keyword show the summary beside each."""
    summaries = [entry.component.summary for entry, own in names.items() for _ in own]
    return {"enum": [name for own in names.values() for name in own], "enumDescriptions": summaries}


def _settings_of(names: Sequence[str], own: JsonSchemaValue) -> JsonSchemaValue:
    fields: JsonSchemaValue = {
        "properties": {"use": {}, **own.get("properties", {})},
        "required": own.get("required", []),
        "additionalProperties": False,
    }
    return {"if": {"properties": {"use": {"enum": list(names)}}, "required": ["use"]}, "then": fields}


# A number as text, which a config may hold: editors read YAML 1.2, in which 750_000 and 1e6 are text.
NUMBER = r"^\s*[+-]?[0-9_.]+([eE][+-]?[0-9]+)?\s*$"


class _Generator(GenerateJsonSchema):
    """Describes what JSON Schema can express and omits the rest: a plugin's unusual type neither warns nor fails."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return {**super().int_schema(schema), "type": ["integer", "string"], "pattern": NUMBER}

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return {**super().float_schema(schema), "type": ["number", "string"], "pattern": NUMBER}

    def encode_default(self, dft: Any) -> Any:
        return written_out(dft) if isinstance(dft, Choice) else super().encode_default(dft)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}


def _with_references(value: object) -> object:
    """`value` with the marks of `OfKind` turned into references to the definitions of the kinds, and with what may be
    null decided by that, so that errors in the other form have their own place."""
    if isinstance(value, list):
        return [_with_references(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    referred = {key: _with_references(item) for key, item in fields.items() if key != KIND_MARK}
    if KIND_MARK in fields:
        return {**referred, "$ref": f"#/$defs/{_name(cast('list[str]', fields[KIND_MARK]))}"}
    forms = cast("list[object]", referred.get("anyOf", referred.get("oneOf", [])))
    condition = _decides(forms)
    if condition is None:
        return referred
    kept = {key: item for key, item in referred.items() if key not in ("anyOf", "oneOf")}
    return {**kept, "if": condition, "then": forms[1], "else": forms[0]}


def _decides(forms: Sequence[object]) -> JsonSchemaValue | None:
    """What holds for the second of two forms and not for the first: being null, or a mapping without `use`."""
    match forms:
        case [_, {"type": "null"}]:
            return {"type": "null"}
        case [{"$ref": str(first)}, {"$ref": str()}] if first.rpartition("/")[2] in KINDS:
            return {"type": "object", "not": {"required": ["use"]}}
        case _:
            return None
