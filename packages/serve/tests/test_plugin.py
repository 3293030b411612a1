"""The component is found by name and builds what plain Python builds; finding it costs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.hooks import ProblemError, Registry
from penstock.serve.huggingface import HuggingFaceExporter


def test_defaults_of_the_config_are_those_of_the_class():
    built, plain = Registry.discover().build("exporter", "hf"), HuggingFaceExporter()
    assert isinstance(built, HuggingFaceExporter)
    assert (built.dtype, built.shard_bytes) == (plain.dtype, plain.shard_bytes)


def test_settings_reach_the_exporter():
    built = Registry.discover().build("exporter", {"use": "hf", "dtype": "float32", "shard_bytes": 1000})
    assert (built.dtype, built.shard_bytes) == ("float32", 1000)


@pytest.mark.parametrize("settings", [{"dtype": "float16"}, {"shard_bytes": 0}, {"shards": 3}])
def test_a_bad_setting_is_a_problem_that_names_it(settings: dict[str, object]):
    with pytest.raises(ProblemError, match=next(iter(settings))):
        Registry.discover().build("exporter", {"use": "hf", **settings})


def test_plugin_and_config_import_no_torch():
    code = "import sys, penstock.serve.plugin, penstock.serve.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
