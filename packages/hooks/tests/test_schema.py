from __future__ import annotations

from types import ModuleType
from typing import Annotated, Any, cast

import pytest
from pydantic import ValidationError

from penstock.hooks import Choice, Registry
from penstock.hooks.architecture import RouterChoice
from penstock.hooks.config import OfKind, Schema, choice_of, parse_config, schema_at, validate
from penstock.hooks.schema import descriptions


class Item(Schema):
    """A thing in a container."""

    size: int = 1
    router: RouterChoice | None = None


class Envelope(Schema):
    """One field of every shape that a config has."""

    plain: int = 0
    item: Item = Item()
    items: list[Item] = []
    named: dict[str, Item] = {}
    either: Item | list[Item] | None = None
    router: RouterChoice | None = None
    balance: list[Annotated[Choice, OfKind("balance-loss", "balancer")]] = []
    by_name: dict[str, RouterChoice] = {}


TEXT = """\
item: {router: top-k}
items: [{router: {use: nested, inner: {depth: 2}}}]
named: {size: {size: 3}}
either: [{size: 2}]
router: {use: nested, routers: [top-k, {use: checked}]}
balance: [{use: nudge}, penalty]
by_name: {a: bare, b: nope}
"""


def test_values_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Item().size = 3


def test_defaults_are_validated() -> None:
    class Wrong(Schema):
        size: int = cast(Any, "three")

    with pytest.raises(ValidationError, match="valid integer"):
        Wrong()


def test_docstrings_below_fields_describe_them(parts: ModuleType) -> None:
    assert descriptions(parts.TopKSettings)["k"] == "Experts a token."


def test_what_the_user_wrote_stands_above_the_preset(parts: ModuleType, registry: Registry) -> None:
    def width_and_scale(text: str) -> tuple[int, float]:
        model = validate(parts.ModelSettings, parse_config(text), registry)
        return model.width, model.router.settings.scale

    assert width_and_scale("width: 1") == (1, 1.0)
    assert width_and_scale("preset: small") == (16, 3.0)
    assert width_and_scale("{preset: small, width: 1}") == (1, 3.0)
    assert width_and_scale("{preset: small, router: top-k}") == (16, 1.0)


def test_a_schema_without_a_preset_field_has_no_presets(registry: Registry) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Item.model_validate({"preset": "small"})


@pytest.mark.parametrize("value", ["top-k", {"use": "top-k"}, {"use": "acme:top-k", "k": 2}])
def test_a_field_for_a_component_holds_a_choice(registry: Registry, value: Any) -> None:
    config = Envelope.model_validate({"router": value}, context={"registry": registry})
    assert config.router == registry.choose("router", {"use": "top-k", "k": 2})


def test_a_choice_is_taken_as_it_is_when_its_kind_fits(registry: Registry) -> None:
    router, balancer = registry.choose("router", "top-k"), registry.choose("balancer", "nudge")
    assert Envelope(router=router).router is router
    assert Envelope(balance=[balancer]).balance == [balancer]
    with pytest.raises(ValidationError, match="must be a component of kind 'router', but 'acme:nudge' is not"):
        Envelope(router=balancer)


def test_a_name_means_nothing_without_a_registry() -> None:
    with pytest.raises(ValidationError, match="component names need a registry"):
        Envelope(router=cast(Any, "top-k"))


@pytest.mark.parametrize("kinds", [(), ("ruoter",), ("router", "ruoter")])
def test_only_kinds_that_exist_can_be_asked_for(kinds: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="name at least one kind"):
        choice_of(*kinds)


def test_a_choice_is_written_with_its_canonical_id_and_every_setting(registry: Registry) -> None:
    config = validate(Envelope, parse_config("{router: top-k, balance: [penalty]}"), registry)
    dumped = config.model_dump(mode="json")
    assert dumped["router"] == {"use": "acme:top-k", "k": 2, "scale": 1.0}
    assert dumped["balance"] == [{"use": "acme:penalty", "rate": 0.001}]


@pytest.mark.parametrize(
    ("location", "schema"),
    [
        ((), "Envelope"),
        (("plain",), None),
        (("item",), "Item"),
        (("item", "size"), None),
        (("item", "router"), "TopKSettings"),
        (("items",), None),
        (("items", 0), "Item"),
        (("items", 0, "router"), "NestedSettings"),
        (("items", 0, "router", "inner"), "Inner"),
        (("named", "size"), "Item"),
        (("named", "size", "size"), None),
        (("either",), None),
        (("either", 0), "Item"),
        (("router",), "NestedSettings"),
        (("router", "routers"), None),
        (("router", "routers", 0), "TopKSettings"),
        (("router", "routers", 1), "CheckedSettings"),
        (("balance", 0), "RateSettings"),
        (("balance", 1), "RateSettings"),
        (("by_name", "a"), "NoSettings"),
        (("by_name", "b"), None),
        (("by_name", "c"), None),
        (("nothing", "here"), None),
    ],
)
def test_the_owner_of_a_place_follows_components(registry: Registry, location: Any, schema: str | None) -> None:
    owner = schema_at(Envelope, parse_config(TEXT).value, location, registry)
    assert (owner and owner.__name__) == schema
