"""The component is found by name and builds what plain Python builds; finding it costs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.hooks import ProblemError, Registry
from penstock.sharing.tied import TiedEmbeddings


def test_the_name_builds_the_strategy():
    assert isinstance(Registry.discover().build("sharing", "tied-embeddings"), TiedEmbeddings)


def test_a_setting_it_does_not_have_is_an_error():
    with pytest.raises(ProblemError, match="unknown field"):
        Registry.discover().build("sharing", {"use": "tied-embeddings", "scale": 2})


def test_plugin_and_config_import_no_torch():
    code = "import sys, penstock.sharing.plugin, penstock.sharing.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
