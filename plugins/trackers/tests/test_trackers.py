from __future__ import annotations

import importlib
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stored_rows import rows_of

from penstock.hooks import ProblemError, Registry
from penstock.hooks.known import FIRST_PARTY

REGISTRY = Registry.discover()
LIBRARIES = ["trackio", "wandb", "mlflow"]


def installed(*libraries: str) -> Any:
    """One test for each library, skipped where it is not installed."""
    return pytest.mark.parametrize(
        "library",
        [
            pytest.param(
                each,
                marks=pytest.mark.skipif(importlib.util.find_spec(each) is None, reason=f"{each} is not installed"),
            )
            for each in libraries
        ],
    )


@installed(*LIBRARIES)
def test_what_is_logged_is_what_the_library_holds(library: str, run_directory: Path) -> None:
    tracker = REGISTRY.build("tracker", library, run_directory=run_directory)
    tracker.log(1, {"loss": 6.25, "heldout/loss": 7.5})
    tracker.log(1, {"heldout/bits": 2.25})
    tracker.log(2, {"loss": math.nan})
    tracker.close()
    found = rows_of(library, run_directory)
    assert found.pop(1) == {"loss": 6.25, "heldout/loss": 7.5, "heldout/bits": 2.25}
    assert found.keys() == {2}
    assert math.isnan(found[2]["loss"])


@installed(*LIBRARIES)
def test_a_resumed_run_goes_on_and_steps_done_again_replace_the_earlier_ones(library: str, run_directory: Path) -> None:
    first = REGISTRY.build("tracker", library, run_directory=run_directory)
    for step in (1, 2, 3, 4):
        first.log(step, {"loss": float(step)})
    first.close()
    second = REGISTRY.build("tracker", library, run_directory=run_directory)
    second.resume(2)
    second.log(3, {"loss": 30.0})
    second.close()
    third = REGISTRY.build("tracker", library, run_directory=run_directory)
    third.resume(3)
    third.log(4, {"loss": 40.0})
    third.close()
    expected = {1: {"loss": 1.0}, 2: {"loss": 2.0}, 3: {"loss": 30.0}, 4: {"loss": 40.0}}
    assert rows_of(library, run_directory) == expected


@installed(*LIBRARIES)
def test_rows_that_a_killed_process_kept_from_the_library_are_sent_again(library: str, run_directory: Path) -> None:
    rows = [(1, {"loss": 1.0}), (2, {"loss": 2.0}), (3, {"loss": 3.0})]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + '[4, {"lo'
    (run_directory / f"{library}-rows.jsonl").write_text(lines)
    tracker = REGISTRY.build("tracker", library, run_directory=run_directory)
    tracker.resume(2)
    tracker.log(3, {"loss": 30.0})
    tracker.close()
    assert rows_of(library, run_directory) == {1: {"loss": 1.0}, 2: {"loss": 2.0}, 3: {"loss": 30.0}}


@installed("mlflow")
def test_a_server_keeps_what_it_was_told_and_the_run_goes_on(library: str, run_directory: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    server = f"sqlite:///{tmp_path / 'server.db'}"
    for resumed, step in ((0, 1), (0, 1), (1, 2)):
        tracker = REGISTRY.build(
            "tracker", {"use": library, "tracking_uri": server, "experiment": "shared"}, run_directory=run_directory
        )
        tracker.resume(resumed)
        tracker.log(step, {"loss": float(step)})
        tracker.close()
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("shared")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert [row.step for row in client.get_metric_history(run.info.run_id, "loss")] == [1, 1, 2]
    assert not (run_directory / "mlflow").exists()


@installed(*LIBRARIES)
def test_a_run_that_logs_nothing_leaves_nothing_and_imports_nothing(library: str, run_directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from penstock.hooks import Registry\n"
        f"tracker = Registry.discover().build('tracker', '{library}', run_directory=Path({str(run_directory)!r}))\n"
        f"tracker.resume(0); tracker.close(); sys.exit('{library}' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert list(run_directory.iterdir()) == []


@installed(*LIBRARIES)
def test_stdout_stays_free_for_the_result_of_a_command(library: str, run_directory: Path, capfd) -> None:
    tracker = REGISTRY.build("tracker", library, run_directory=run_directory)
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_library_is_a_problem_that_names_its_extra(library: str, run_directory: Path, monkeypatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == library else there(name, *more)
    )
    with pytest.raises(ProblemError) as raised:
        REGISTRY.build("tracker", library, run_directory=run_directory)
    assert f'`uv add "penstock-trackers[{library}]"`' in str(raised.value)


def test_every_known_name_is_offered_and_described_without_its_library() -> None:
    ours = {e.component.name for e in REGISTRY.entries("tracker") if e.origin.distribution == "penstock-trackers"}
    known = {name for (kind, name), owner in FIRST_PARTY.items() if owner == "penstock-trackers" and kind == "tracker"}
    assert ours == known == set(LIBRARIES)
    code = (
        "import sys, penstock_trackers.plugin, penstock_trackers.config, penstock_trackers.in_trackio\n"
        "import penstock_trackers.in_wandb, penstock_trackers.in_mlflow, penstock_trackers.in_prometheus\n"
        "sys.exit(bool({'trackio', 'wandb', 'mlflow', 'prometheus_client'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wandb_stays_offline_unless_it_is_told_otherwise() -> None:
    assert REGISTRY.choose("tracker", "wandb").settings.mode == "offline"
    with pytest.raises(ProblemError, match="mode"):
        REGISTRY.choose("tracker", {"use": "wandb", "mode": "on"})
