from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from penstock.hooks import ProblemError, Registry
from penstock.hooks.known import FIRST_PARTY
from penstock.hooks.schema import descriptions, schema_of

REGISTRY = Registry.discover()
OURS = [entry for entry in REGISTRY.entries() if entry.origin.distribution == "penstock-routers"]
CONTEXT = {"router": {"hidden_size", "experts"}}


def test_every_known_name_is_offered():
    known = {key for key, package in FIRST_PARTY.items() if package == "penstock-routers"}
    assert {(entry.component.kind, entry.component.name) for entry in OURS} == known


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: entry.component.name)
def test_schema_fields_are_the_arguments_of_the_target_with_equal_defaults(entry):
    fields = schema_of(entry).model_fields
    parameters = inspect.signature(entry.component.load_target()).parameters
    context = CONTEXT.get(entry.component.kind, set())
    assert set(fields) == set(parameters) - context
    for name, field in fields.items():
        assert field.default == parameters[name].default, name
        assert name in descriptions(schema_of(entry))


def test_a_router_is_built_from_settings():
    router = REGISTRY.build(
        "router", {"use": "sigmoid-topk", "k": 3, "groups": 2, "groups_kept": 2}, hidden_size=8, experts=8
    )
    assert (type(router).__name__, router.k, router.experts, router.groups) == ("SigmoidTopK", 3, 8, 2)


def test_a_rate_schedule_is_read_from_plain_values():
    balancer = REGISTRY.build("balancer", {"use": "loss-free", "rate": [[0, 0.001], [15e12, 0.0]]})
    assert balancer.steps == ((0, 0.001), (15e12, 0.0))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("router", {"use": "sigmoid-topk", "groups_kept": 3}, "groups_kept=3 of groups=1"),
        ("router", {"use": "softmax-topk", "k": 0}, "greater than or equal to 1"),
        ("balancer", {"use": "loss-free", "rate": [[5, 0.1]]}, "ascend from 0"),
    ],
)
def test_settings_that_cannot_work_are_problems(kind, settings, words):
    with pytest.raises(ProblemError, match=words):
        REGISTRY.choose(kind, settings)


def test_description_and_settings_import_no_torch():
    code = "import sys, penstock.routers.plugin, penstock.routers.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
