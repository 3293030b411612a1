from __future__ import annotations

import pytest

from penstock.hooks import ProblemError, Registry
from penstock.hooks.architecture import ArchitectureSettings, layer_routers
from penstock.hooks.config import parse_config, validate


def settings(registry: Registry, text: str) -> ArchitectureSettings:
    return validate(ArchitectureSettings, parse_config(text, "run.yaml"), registry)


def problems(registry: Registry, text: str, layers: range = range(1, 4)) -> list[str]:
    with pytest.raises(ProblemError) as caught:
        layer_routers(settings(registry, text), layers)
    return [str(problem) for problem in caught.value.problems]


def test_every_layer_has_the_router_of_the_model_unless_overridden(registry: Registry) -> None:
    text = "{router: {use: top-k, k: 2}, overrides: [{match: 'layers.[12].mlp', router: {use: top-k, k: 4}}]}"
    routers = layer_routers(settings(registry, text), range(4))
    assert {layer: choice.settings.k for layer, choice in routers.items()} == {0: 2, 1: 4, 2: 4, 3: 2}


def test_a_dense_model_needs_no_router(registry: Registry) -> None:
    assert layer_routers(settings(registry, "{}"), []) == {}


def test_two_owners_of_one_layer_are_both_named(registry: Registry) -> None:
    text = "{router: bare, overrides: [{match: 'layers.*', router: bare}, {match: 'layers.2.*', router: bare}]}"
    assert problems(registry, text) == [
        "model.overrides: the router of layers.2.mlp is set by model.overrides.0 ('layers.*') and "
        "model.overrides.1 ('layers.2.*'), narrow their patterns"
    ]


def test_patterns_that_match_nothing_and_a_missing_router_are_found_at_once(registry: Registry) -> None:
    found = problems(registry, "overrides: [{match: 'layers.9.mlp', router: bare}]")
    assert [each.partition(": ")[0] for each in found] == ["model.overrides.0", "model.router"]
    assert "layers.1.mlp, layers.2.mlp, layers.3.mlp" in found[0]


def test_an_override_in_a_model_without_experts_says_so(registry: Registry) -> None:
    [found] = problems(registry, "overrides: [{match: '*', router: bare}]", range(0))
    assert "the model has no experts" in found


def test_losses_and_balancers_stand_in_one_list(registry: Registry) -> None:
    balance = settings(registry, "balance: [nudge, {use: penalty, rate: 2}]").balance
    assert [choice.entry.component.kind for choice in balance] == ["balancer", "balance-loss"]
    with pytest.raises(ProblemError) as caught:
        settings(registry, "balance: [{use: nudge, rte: 2}]")
    assert str(caught.value) == "run.yaml:1:24: balance.0.rte: unknown field, did you mean 'rate'?"
