"""Makes `broken`, the components that break one law each, importable here and in the processes of the kit, and lets
those of them that write where they should not do so in a folder that is thrown away."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
