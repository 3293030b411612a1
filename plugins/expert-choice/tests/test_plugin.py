from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from penstock.hooks import ProblemError, Registry
from penstock.hooks.schema import descriptions

REGISTRY = Registry.discover()
(ENTRY,) = [entry for entry in REGISTRY.entries() if entry.origin.distribution == "penstock-expert-choice"]


def test_it_is_found_and_does_not_claim_to_be_causal():
    assert (ENTRY.component.kind, ENTRY.component.name) == ("router", "expert-choice")
    assert "causal" not in ENTRY.component.capabilities


def test_schema_fields_are_the_arguments_of_the_target_with_equal_defaults():
    schema = ENTRY.component.load_config()
    parameters = inspect.signature(ENTRY.component.load_target()).parameters
    assert set(schema.model_fields) == set(parameters) - {"hidden_size", "experts"}
    for name, field in schema.model_fields.items():
        assert field.default == parameters[name].default, name
        assert name in descriptions(schema)


def test_it_is_built_from_settings():
    settings = {"use": "expert-choice", "capacity_factor": 1.5, "normalize": True}
    router = REGISTRY.build("router", settings, hidden_size=8, experts=4)
    assert (type(router).__name__, router.k, router.experts, router.normalize) == ("ExpertChoice", 2, 4, True)


@pytest.mark.parametrize("factor", [0, -1, "many"])
def test_settings_that_cannot_work_are_problems(factor):
    with pytest.raises(ProblemError, match="capacity_factor"):
        REGISTRY.choose("router", {"use": "expert-choice", "capacity_factor": factor})


def test_description_and_settings_import_no_torch():
    code = "import sys, penstock_expert_choice.plugin, penstock_expert_choice.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
