"""JSON Schema of a config with every installed component merged in, so that editors complete and check it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from penstock.hooks.component import KINDS
from penstock.hooks.registry import Choice, Entry, Registry
from penstock.hooks.schema import KIND_MARK, Schema, schema_of, written_out


def json_schema(schema: type[Schema], registry: Registry) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a config; raises `ProblemError` where a component's schema cannot be imported.

    `$defs` has one entry per kind: the values allowed where a component of that kind is named.
    """
    owners = {entry: schema_of(entry) for entry in registry.entries()}
    models = list(dict.fromkeys([schema, *owners.values()]))
    # one generator for all, because two plugins may give their models the same name
    references, generated = models_json_schema([(model, "validation") for model in models], schema_generator=_Generator)
    definitions: dict[str, Any] = generated["$defs"]
    own = {model: definitions[references[model, "validation"]["$ref"].rpartition("/")[2]] for model in models}
    for kind in KINDS:
        entries = registry.entries(kind)
        options = [option for entry in entries for option in _options(entry, entries, own[owners[entry]])]
        definitions[kind] = {"anyOf": options} if options else {"not": {}}
    return cast("dict[str, Any]", _with_references({**own[schema], "$defs": definitions}))


def _options(entry: Entry, entries: Sequence[Entry], own: JsonSchemaValue) -> list[JsonSchemaValue]:
    """A component as a mapping, and as its bare name if it needs no settings."""
    alone = sum(other.component.name == entry.component.name for other in entries) == 1
    names = [entry.component.name, entry.id] if alone else [entry.id]
    required: list[str] = own.get("required", [])
    mapping: JsonSchemaValue = {
        "type": "object",
        "title": entry.component.name,
        "description": entry.component.summary,
        "properties": {"use": {"enum": names}, **own.get("properties", {})},
        "required": ["use", *required],
        "additionalProperties": False,
    }
    bare: JsonSchemaValue = {"enum": names, "description": entry.component.summary}
    return [mapping] if required else [bare, mapping]


class _Generator(GenerateJsonSchema):
    """Describes what JSON Schema can express and omits the rest: a plugin's unusual type neither warns nor fails."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def encode_default(self, dft: Any) -> Any:
        return written_out(dft) if isinstance(dft, Choice) else super().encode_default(dft)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}


def _with_references(value: object) -> object:
    """`value` with the marks of `OfKind` turned into references to the definitions of the kinds."""
    if isinstance(value, list):
        return [_with_references(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    referred = {key: _with_references(item) for key, item in fields.items() if key != KIND_MARK}
    if KIND_MARK not in fields:
        return referred
    kinds = [{"$ref": f"#/$defs/{kind}"} for kind in cast("list[str]", fields[KIND_MARK])]
    return {**referred, **kinds[0]} if len(kinds) == 1 else {**referred, "anyOf": kinds}
