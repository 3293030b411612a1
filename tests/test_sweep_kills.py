"""A sweep whose controller and workers are killed finds what one finds that was left alone, to the bit."""

from __future__ import annotations

import random
import sys

import pytest
from crash import differences
from killed_sweeps import INTERVAL, SweepServer, findings, pareto_set, write_sweep

from penstock.run.records.record import read_record
from penstock.run.records.sweep import SweepFigures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")


@pytest.fixture(scope="module")
def server():
    with SweepServer() as serving:
        yield serving


def test_kills_change_nothing_that_a_sweep_finds(server, tmp_path):
    alone = server.sweep(write_sweep(tmp_path, "null"), tmp_path / "alone")
    kills = server.killed_sweep(write_sweep(tmp_path), tmp_path / "runs", random.Random(5), kills=5)
    assert [kill.who for kill in kills] == ["controller", "worker", "all", "controller", "worker"]
    killed = tmp_path / "runs" / "killed"
    assert differences(findings(alone), findings(killed)) == []
    assert pareto_set(alone) == pareto_set(killed)
    assert max(max(kill.repeated, default=0) for kill in kills) <= INTERVAL


def test_a_cell_that_does_not_fit_in_memory_fails_and_the_others_go_on(server, tmp_path):
    sweep_file = write_sweep(tmp_path, "{use: local, workers: 1, memory_gb: 2}")
    huge = "wide: {model.hidden_size: 1024, model.intermediate_size: 200_000}"
    sweep_file.write_text(sweep_file.read_text().replace("wide: {model.hidden_size: 32}", huge))
    figures = read_record(SweepFigures, server.sweep(sweep_file, tmp_path / "runs") / "sweep.json")
    assert figures is not None
    assert {cell.cell: cell.state for cell in figures.cells} == {
        "low, narrow": "finished",
        "low, wide": "failed",
        "high, narrow": "finished",
        "high, wide": "failed",
    }
    failed = [cell.reason for cell in figures.cells if cell.state == "failed"]
    assert all(reason.startswith("memory ran out (RuntimeError") for reason in failed)
