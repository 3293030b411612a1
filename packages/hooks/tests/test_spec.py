import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import penstock.hooks
from penstock.hooks import KINDS, spec

MODULES = [
    module.name
    for module in pkgutil.walk_packages(penstock.hooks.__path__, "penstock.hooks.")
    if module.name not in ("penstock.hooks.testing", "penstock.hooks.trace")  # they raise, and say where to look now
]
HOOKS = {name: hook for name, hook in inspect.getmembers(spec, inspect.isfunction) if hasattr(hook, "penstock_spec")}
KIND_OF = {hook: kind for kind, hook in KINDS.items()}


def test_every_kind_has_a_hook_and_every_hook_a_kind() -> None:
    assert sorted(HOOKS) == sorted(KINDS.values())


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_takes_nothing_and_returns_components(name: str) -> None:
    signature = inspect.signature(HOOKS[name])
    assert not signature.parameters
    assert signature.return_annotation == "list[Component]"


@pytest.mark.parametrize("name", HOOKS)
def test_the_contract_of_a_hook_has_an_example_of_its_own_kind(name: str) -> None:
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(HOOKS[name]) or "")
    assert [example.want.strip() for example in examples] == [repr(KIND_OF[name])]


@pytest.mark.parametrize("name", HOOKS)
def test_the_types_that_a_contract_names_exist(name: str) -> None:
    contracts = importlib.import_module("penstock.hooks.contracts")
    named = re.findall(r"`([A-Z]\w+)`", (inspect.getdoc(HOOKS[name]) or "").partition(">>>")[0])
    assert [each for each in named if not hasattr(contracts, each)] == []


@pytest.mark.parametrize("name", ["penstock.hooks", *MODULES])
def test_docstring_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
