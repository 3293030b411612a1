"""Every component keeps the laws of its kind, under its defaults and with what is off by default switched on."""

from __future__ import annotations

from dataclasses import replace

from penstock.conformance import parametrize_contract
from penstock.hooks.component import Component
from penstock.routers import plugin

LOST_BY_CAPACITY = {"batch-invariant", "dropless", "permutation-equivariant"}


@parametrize_contract([*plugin.routers(), *plugin.balance_losses(), *plugin.balancers()])
def test_contract(case):
    case()


def router(name: str, *, without: set[str]) -> Component:
    (component,) = [each for each in plugin.routers() if each.name == name]
    return replace(component, capabilities=component.capabilities - without)


WITH_CAPACITY = {
    "sigmoid-topk": {"capacity": 1.0},
    "softmax-topk": {"capacity": 0.5, "temperature": 0.5, "groups": 2, "groups_kept": 2},
}


@parametrize_contract([router(name, without=LOST_BY_CAPACITY) for name in WITH_CAPACITY], settings=WITH_CAPACITY)
def test_contract_with_capacity(case):
    case()


WITH_NOISE = {"softmax-topk": {"noise": 3.0, "temperature": 2.0}, "sqrtsoftplus-topk": {"noise": 2.0, "noise_seed": 7}}


@parametrize_contract([router(name, without={"same-in-training"}) for name in WITH_NOISE], settings=WITH_NOISE)
def test_contract_with_noise(case):
    case()
