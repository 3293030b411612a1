"""A run directory, and a folder of Trackio's own for the session: it reads its place once, when it is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # what the tests share


@pytest.fixture(scope="session", autouse=True)
def _trackio_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    folder = tmp_path / f"config-{tmp_path.name}" / "20260101T000000Z-0123abcd"
    folder.mkdir(parents=True)
    return folder
