"""`penstock plugins show`: all there is to know about a component before it is used."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from penstock.cli import output
from penstock.cli.commands.plugin_check import entries_named, kind_option
from penstock.conformance.promises import CAPABILITIES
from penstock.hooks.component import CONTRACTS
from penstock.hooks.config import OfKind
from penstock.hooks.registry import Choice, Entry, Registry
from penstock.hooks.schema import descriptions, schema_of

# Where a config names a component of a kind; `NAME` stands for what is written after `use`.
CONFIG_LINES = {
    "architecture": "model: {use: NAME}",
    "router": "model: {router: {use: NAME}}",
    "balance-loss": "model: {balance: [{use: NAME}]}",
    "balancer": "model: {balance: [{use: NAME}]}",
    "quantizer": "model: {quantizer: {use: NAME}}",
    "sharing": "model: {sharing: [{use: NAME}]}",
    "optimizer": "train: {optimizer: {use: NAME}}",
    "schedule": "train: {schedule: {use: NAME}}",
    "objective": "train: {objective: {use: NAME}}",
    "engine": "train: {engine: {use: NAME}}",
    "corpus": "data: {corpus: {use: NAME}}",
    "filter": "data: {filters: [{use: NAME}]}",
    "cleaner": "stages: [{use: NAME}]",
    "task": "evaluate: {tasks: [{use: NAME}]}",
    "topology": "simulate: {topology: {use: NAME}}",
    "placement": "simulate: {placement: {use: NAME}}",
    "exporter": "penstock export RUN --format NAME",
    "server": "penstock serve MODEL --server NAME",
    "launcher": "launcher: {use: NAME}",
    "stop-rule": "stop: {use: NAME}",
    "tracker": "train: {trackers: [{use: NAME}]}",
    "observer": "train: {observers: [{use: NAME}]}",
    "section": "NAME: {}",
    "command": "penstock NAME",
}


@click.command("show")
@click.argument("name")
@kind_option
@output.json_option
@click.pass_obj
def show_plugin(registry: Registry, name: str, kind: str | None, as_json: bool) -> list[dict[str, Any]]:
    """Show a component's summary, provider, capabilities and settings. None of its code is imported.

    NAME is a component's name, `distribution:name` or `kind/name`. If several kinds have NAME, all are shown.
    """
    result = [describe(entry, registry) for entry in entries_named(registry, name, kind)]
    output.print_result(result, as_json, lambda: "\n\n".join(map(_text, result)))
    return result


def describe(entry: Entry, registry: Registry) -> dict[str, Any]:
    """Everything about one component that its description and schema say."""
    component, origin = entry.component, entry.origin
    meanings = CAPABILITIES.get(component.kind, {})
    return {
        "kind": component.kind,
        "name": component.name,
        "id": entry.id,
        "summary": component.summary,
        "distribution": origin.distribution,
        "version": origin.version,
        "entry_point": origin.entry_point,
        "contract": component.contract,
        "supported_contracts": str(CONTRACTS[component.kind]),
        "capabilities": {each: meanings.get(each, "") for each in sorted(component.capabilities)},
        "reference": component.reference,
        "settings": settings_table(entry),
        "use": config_line(entry, registry),
        "check": f"penstock plugins check {registry.name_of(entry)} --kind {component.kind}",
    }


def config_line(entry: Entry, registry: Registry) -> str:
    """What to write to use the component: its short name, or its id if another distribution has the name too."""
    kind, short = entry.component.kind, entry.component.name
    alone = sum(other.component.name == short for other in registry.entries(kind)) == 1
    return CONFIG_LINES[kind].replace("NAME", short if alone else entry.id)


def settings_table(entry: Entry) -> list[dict[str, Any]]:
    """The component's settings, one per row."""
    schema = schema_of(entry)
    described = descriptions(schema)
    return [
        {
            "field": name,
            "type": type_name((field.annotation, *field.metadata)),
            "required": field.is_required(),
            "default": None if field.is_required() else _plain(field.get_default(call_default_factory=True)),
            "description": " ".join(described.get(name, "").split()),
        }
        for name, field in schema.model_fields.items()
    ]


def type_name(annotation: Any) -> str:
    """A type as a person would write it in a config.

    >>> type_name(int | None), type_name(list[tuple[float, float]]), type_name(Literal["row", "tensor"])
    ('int or null', 'list[tuple[float, float]]', "'row' or 'tensor'")
    """
    if isinstance(annotation, tuple):  # a field's annotation, and what pydantic took out of its `Annotated`
        marks = [mark for mark in annotation[1:] if isinstance(mark, OfKind)]
        return f"component of kind {marks[0]}" if marks else type_name(annotation[0])
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        return type_name((parts[0], *parts[1:]))
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_name, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if part is ... else type_name(part) for part in parts)}]"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _plain(value: Any) -> Any:
    return value.entry.id if isinstance(value, Choice) else value


def _text(shown: dict[str, Any]) -> str:
    rows = [
        ("from", f"{shown['distribution']} {shown['version']}, entry point {shown['entry_point']}"),
        ("contract", f"{shown['contract']} (this release supports {shown['supported_contracts']})"),
        *((f"promises {each}", meaning) for each, meaning in shown["capabilities"].items()),
        ("reference", shown["reference"]),
        ("use", shown["use"]),
        ("laws", shown["check"]),
    ]
    width = max(len(name) for name, _ in rows)
    parts = [
        f"{shown['kind']} {shown['name']}: {shown['summary']}",
        "\n".join(f"{name:{width}}  {value}" for name, value in rows if value),
    ]
    if shown["settings"]:
        columns = ("field", "type", "default", "description")
        parts.append(
            output.table(columns, [(s["field"], s["type"], _default(s), s["description"]) for s in shown["settings"]])
        )
    else:
        parts.append("No settings.")
    return "\n\n".join(parts)


def _default(setting: dict[str, Any]) -> str:
    if setting["required"]:
        return "(required)"
    return "null" if setting["default"] is None else str(setting["default"])
