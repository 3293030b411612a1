import dataclasses
from typing import Any, cast

import pytest

from penstock.hooks import CONTRACTS, KINDS, Component, Window
from penstock.hooks.component import load_attribute


def component(**changes: object) -> Component:
    return Component(**{"kind": "router", "name": "mine", "target": "json:dumps", "summary": "", **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_described(kind: str) -> None:
    assert component(kind=kind).contract == 1
    assert CONTRACTS[kind].oldest <= CONTRACTS[kind].newest


def test_a_component_that_does_not_say_was_written_against_the_first_contract(monkeypatch) -> None:
    monkeypatch.setitem(CONTRACTS, "router", Window(1, 3))
    assert component().contract == 1


def test_a_window_holds_its_ends_and_what_is_between() -> None:
    assert [version in Window(2, 4) for version in range(1, 6)] == [False, True, True, True, False]


@pytest.mark.parametrize(
    "wrong", [{"summary": None}, {"reference": 1}, {"capabilities": None}, {"contract": "1"}], ids=str
)
def test_what_a_list_shows_is_checked_where_it_is_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(wrong))):
        component(**wrong)


def test_a_description_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        cast(Any, component()).name = "other"


def test_equal_descriptions_are_equal_and_hash_alike() -> None:
    assert len({component(), component()}) == 1


def test_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'mine': unknown kind 'ruoter'; known kinds: .*router"):
        component(kind="ruoter")


@pytest.mark.parametrize("path", ["json", "json.dumps", "json:", ":dumps", "a:b:c", "json: dumps", ""])
@pytest.mark.parametrize("label", ["target", "config"])
def test_paths_name_a_module_and_an_attribute(label: str, path: str) -> None:
    with pytest.raises(ValueError, match=f"{label} must be 'module:attribute'"):
        component(**{label: path})


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a\n"])
def test_names_can_stand_behind_a_colon(name: str) -> None:
    with pytest.raises(ValueError, match="colon or whitespace"):
        component(name=name)


def test_target_and_config_are_imported_on_demand() -> None:
    import json

    assert component(target="no_such_module:f").config is None
    assert component().load_target() is json.dumps
    assert component().load_config() is None
    assert component(config="json:loads").load_config() is json.loads


def test_loading_fails_as_the_import_does() -> None:
    with pytest.raises(ModuleNotFoundError):
        load_attribute("no_such_module:f")
    with pytest.raises(AttributeError):
        load_attribute("json:no_such_function")
