"""A tiny GPT-2 that both the harness's own backend and our architecture read."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # what the tests share


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory):
    from gpt2_twins import write_twins

    return write_twins(tmp_path_factory.mktemp("gpt2"))
