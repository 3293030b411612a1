"""A finished sweep is read again in the time of a glance, without torch, however many cells it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from many_cells import finished_sweep, processor_seconds

SECONDS = 1.0
"""Of processor time over `penstock --help`. The clock on the wall says little where others use the machine."""


@pytest.fixture(scope="module")
def finished(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return finished_sweep(workplace / "configs" / "quickstart.yaml", tmp_path_factory.mktemp("many"))


def test_144_finished_cells_are_shown_within_a_second_and_without_torch(finished):
    floor = min(processor_seconds("--help")[0] for _ in range(3))
    again = [processor_seconds(*finished, "--json") for _ in range(3)]
    assert min(seconds for seconds, _ in again) - floor < SECONDS
    shown = json.loads(again[0][1])
    states = [cell["state"] for cell in shown["cells"]]
    assert (states.count("finished"), len(states)) == (3, 144)
