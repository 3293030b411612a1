from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch

from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import ParameterRole
from penstock.hooks.known import FIRST_PARTY
from penstock.hooks.schema import descriptions

REGISTRY = Registry.discover()
OURS = [entry for entry in REGISTRY.entries() if entry.origin.distribution == "penstock-optim-muon"]
CONTEXT = {"optimizer": {"parameters", "layouts"}, "schedule": {"tokens"}}


def test_every_known_name_is_offered():
    known = {key for key, package in FIRST_PARTY.items() if package == "penstock-optim-muon"}
    assert {(entry.component.kind, entry.component.name) for entry in OURS} == known


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: entry.component.name)
def test_schema_fields_are_the_arguments_of_the_target_with_equal_defaults(entry):
    schema = entry.component.load_config()
    parameters = inspect.signature(entry.component.load_target()).parameters
    context = CONTEXT.get(entry.component.kind, set())
    assert set(schema.model_fields) == set(parameters) - context
    for name, field in schema.model_fields.items():
        assert field.default == parameters[name].default, name
        assert name in descriptions(schema)


def test_an_optimizer_is_built_from_settings():
    parameters = {ParameterRole.EXPERT: {"up": torch.nn.Parameter(torch.zeros(2, 3, 4))}}
    optimizer = REGISTRY.build("optimizer", {"use": "muon", "muon_roles": ["expert"]}, parameters=parameters)
    assert [(group["role"], group["rule"]) for group in optimizer.param_groups] == [("expert", "muon")]


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("optimizer", {"use": "muon", "muon_roles": ["router"]}, "worse than random"),
        ("optimizer", {"use": "muon", "adamw_betas": [0.9, 1.0]}, "out of range"),
        ("optimizer", {"use": "adamw", "betas": [0.9, 1.0]}, "out of range"),
        ("schedule", {"use": "wsd", "warmup": 0.9, "decay": 0.2}, "overlap"),
        ("schedule", {"use": "cosine", "final": 2.0}, "less than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_problems(kind, settings, words):
    with pytest.raises(ProblemError, match=words):
        REGISTRY.choose(kind, settings)


def test_description_and_settings_import_no_torch():
    code = "import sys, penstock.optim_muon.plugin, penstock.optim_muon.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
