"""The component is found by name and builds what plain Python builds; finding it costs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.hooks import ProblemError, Registry
from penstock.hooks.contracts import ParameterRole
from penstock.quant158.ternary import TernaryQuantizer


def test_defaults_of_the_config_are_those_of_the_class():
    built, plain = Registry.discover().build("quantizer", "ternary"), TernaryQuantizer()
    assert isinstance(built, TernaryQuantizer)
    assert (built.roles, built.group) == (plain.roles, plain.group)


def test_settings_reach_the_quantizer():
    built = Registry.discover().build("quantizer", {"use": "ternary", "roles": ["expert"], "group": "row"})
    assert (built.roles, built.group) == (frozenset({ParameterRole.EXPERT}), "row")
    built = Registry.discover().build("quantizer", {"use": "ternary", "group": 128})
    assert built.format == "ternary-base3-g128"


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_whole_numbers_serve_embeddings_and_heads_by_default(name: str):
    built = Registry.discover().build("quantizer", name)
    assert built.format == f"{name}-rows"
    assert {ParameterRole.EMBEDDING, ParameterRole.HEAD} <= built.roles


def test_a_role_that_cannot_be_ternary_is_a_problem_with_the_reason():
    with pytest.raises(ProblemError, match="'router' cannot be ternary: three levels cannot rank experts"):
        Registry.discover().build("quantizer", {"use": "ternary", "roles": ["matrix", "router"]})


def test_plugin_and_config_import_no_torch():
    code = "import sys, penstock.quant158.plugin, penstock.quant158.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
