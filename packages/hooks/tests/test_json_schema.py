from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Annotated, Any, TypeAlias, get_args

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field

from penstock.hooks import KINDS, Choice, Component, ExitCode, ProblemError, Registry
from penstock.hooks.architecture import BalanceChoice, RouterChoice
from penstock.hooks.config import OfKind, Schema, choice_of, json_schema, parse_config, validate
from penstock.hooks.discovery import Loaded, Origin

ArchitectureChoice: TypeAlias = Annotated[Choice, OfKind("architecture")]
TaskChoice: TypeAlias = Annotated[Choice, OfKind("task")]


class Run(Schema):
    """The envelope."""

    name: str
    """What the run is called."""
    model: ArchitectureChoice | None = None
    router: RouterChoice = Field(default="top-k", validate_default=True)
    balance: list[BalanceChoice] = []


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def test_it_is_a_json_schema_whose_references_resolve(registry: Registry) -> None:
    schema = json_schema(Run, registry)
    Draft202012Validator.check_schema(json.loads(json.dumps(schema)))
    assert {reference.removeprefix("#/$defs/") for reference in references(schema)} <= set(schema["$defs"])
    assert set(KINDS) <= set(schema["$defs"])
    assert "x-penstock" not in json.dumps(schema)
    assert schema["properties"]["name"]["description"] == "What the run is called."


CONFIGS = [
    "name: x",
    "{name: x, router: top-k}",
    "{name: x, router: acme:top-k}",
    "{name: x, router: {use: top-k, k: 4}}",
    "{name: x, router: {use: top-k, kk: 4}}",
    "{name: x, router: {use: top-k, k: many}}",
    "{name: x, router: {use: top-k, k: '4'}}",
    "{name: x, router: {use: top-k, k: '1_0'}}",
    "{name: x, router: needy}",
    "{name: x, router: {use: needy, k: 1}}",
    "{name: x, router: {use: nope}}",
    "{name: x, router: nope}",
    "{name: x, router: {k: 4}}",
    "{name: x, router: null}",
    "{name: x, router: {use: nested, inner: {depth: 2}, routers: [bare, {use: top-k}]}}",
    "{name: x, router: {use: nested, inner: {depht: 2}}}",
    "{name: x, router: {use: nested, routers: [needy]}}",
    "{name: x, balance: [nudge, penalty, {use: nudge, rate: 2}]}",
    "{name: x, balance: [top-k]}",
    "{name: x, balance: nudge}",
    "{name: x, model: null}",
    "{name: x, model: {use: model, width: 3}}",
    "{name: x, model: {use: model, preset: small}}",
    "{name: x, model: {use: model, preset: smal}}",
    "{nmae: x}",
    "{}",
]


@pytest.mark.parametrize("text", CONFIGS)
def test_an_editor_accepts_what_validation_accepts(registry: Registry, text: str) -> None:
    document = parse_config(text)
    try:
        validate(Run, document, registry)
        valid = True
    except ProblemError:
        valid = False
    assert Draft202012Validator(json_schema(Run, registry)).is_valid(document.value) == valid


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{name: x, router: {use: top-k, k: many}}", ["router", "k"]),
        ("{name: x, router: {use: top-k, kk: 4}}", ["router"]),
        ("{name: x, router: {use: nested, inner: {depth: deep}}}", ["router", "inner", "depth"]),
        ("{name: x, router: {use: nope}}", ["router", "use"]),
        ("{name: x, router: nope}", ["router"]),
        ("{name: x, router: {use: needy}}", ["router"]),
        ("{name: x, model: {use: model, width: wide}}", ["model", "width"]),
        ("{name: x, model: {use: model, width: 3, router: {use: top-k, k: many}}}", ["model", "router", "k"]),
        ("{name: x, balance: [nudge, {use: penalty, rate: high}]}", ["balance", 1, "rate"]),
    ],
)
def test_a_wrong_value_is_one_error_at_its_field(registry: Registry, text: str, place: list[Any]) -> None:
    validator: Any = Draft202012Validator(json_schema(Run, registry))
    errors = list(validator.iter_errors(parse_config(text).value))
    assert [(list(error.absolute_path), error.context) for error in errors] == [(place, [])]


def test_both_verdicts_occur_among_the_examples(registry: Registry) -> None:
    verdicts = [Draft202012Validator(json_schema(Run, registry)).is_valid(parse_config(each).value) for each in CONFIGS]
    assert 8 <= sum(verdicts) <= len(verdicts) - 8


def test_a_name_with_two_owners_needs_its_distribution(registry: Registry) -> None:
    rival = Loaded(Origin("rival", "1.0", "main"), (Component("router", "bare", "acme_parts:record", ""),))
    check = Draft202012Validator(json_schema(Run, Registry([*registry.plugins, rival])))
    assert not check.is_valid({"name": "x", "router": "bare"})
    assert check.is_valid({"name": "x", "router": "rival:bare"})
    assert check.is_valid({"name": "x", "router": {"use": "acme:bare"}})


def test_models_of_one_name_stay_apart(parts: ModuleType, registry: Registry) -> None:
    class Inner(Schema):
        """Has the name of a model of the plugin, and another field."""

        height: int = 1

    class Outer(Schema):
        inner: Inner = Inner()
        router: RouterChoice = Field(default="bare", validate_default=True)

    check = Draft202012Validator(json_schema(Outer, registry))
    assert check.is_valid({"inner": {"height": 2}, "router": {"use": "nested", "inner": {"depth": 2}}})
    assert not check.is_valid({"inner": {"depth": 2}})
    assert not check.is_valid({"router": {"use": "nested", "inner": {"height": 2}}})


def test_defaults_that_json_cannot_say_neither_warn_nor_fail(parts: ModuleType, registry: Registry) -> None:
    class Defaults(Schema):
        router: RouterChoice = registry.choose("router", {"use": "top-k", "k": 7})
        routers: list[RouterChoice] = [registry.choose("router", "bare")]
        opaque: Any = parts.Opaque()
        limit: float = float("inf")

    opaque = Component("router", "opaque", "acme_parts:record", "", "acme_parts:OpaqueSettings")
    plugins = [*registry.plugins, Loaded(Origin("odd", "1.0", "main"), (opaque,))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema = json_schema(Defaults, Registry(plugins))
    assert schema["properties"]["router"]["default"] == {"use": "acme:top-k", "k": 7, "scale": 1.0}
    assert "default" not in schema["properties"]["opaque"]
    Draft202012Validator.check_schema(schema)


def test_a_kind_without_components_accepts_nothing() -> None:
    class Needs(Schema):
        task: TaskChoice | None = None

    check = Draft202012Validator(json_schema(Needs, Registry([])))
    assert check.is_valid({"task": None})
    assert not check.is_valid({"task": "heldout"})


def test_a_schema_that_cannot_be_imported_is_a_problem_of_its_plugin() -> None:
    component = Component("router", "mine", "json:dumps", "", "no_such_module:Settings")
    with pytest.raises(ProblemError, match=r"router 'mine' is not usable, acme 1\.0: ") as caught:
        json_schema(Run, Registry([Loaded(Origin("acme", "1.0", "main"), (component,))]))
    assert caught.value.exit_code is ExitCode.PLUGIN


def test_annotated_and_choice_of_say_the_same() -> None:
    _, marker = get_args(choice_of("router"))
    assert isinstance(marker, OfKind)
    assert marker.kinds == ("router",)
