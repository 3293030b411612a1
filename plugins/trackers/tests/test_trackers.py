from __future__ import annotations

import importlib
import importlib.util
import json
import math
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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


def rows_of(library: str, run_directory: Path) -> dict[int, dict[str, float]]:
    """What the library itself has stored of the run, by step."""
    return {"trackio": _trackio_rows, "wandb": _wandb_rows, "mlflow": _mlflow_rows}[library](run_directory)


def _trackio_rows(run_directory: Path) -> dict[int, dict[str, float]]:
    from trackio.sqlite_storage import SQLiteStorage

    found: dict[int, dict[str, float]] = {}
    for row in SQLiteStorage.get_logs(run_directory.parent.name, run_directory.name):
        found.setdefault(row.pop("step"), {}).update({k: v for k, v in row.items() if k != "timestamp"})
    return found


def _wandb_rows(run_directory: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for folder in sorted(run_directory.glob("wandb/offline-run-*")):
        for record in _whole_run(folder):
            row = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            metrics = {name: value for name, value in row.items() if not name.startswith("_")}
            if metrics:
                found.setdefault(row["_step"], {}).update(metrics)
    return found


def _whole_run(folder: Path) -> list[Any]:
    """The records of a finished run. A process of wandb's own writes them, the last some time after `finish`."""
    record_type: Any = importlib.import_module("wandb.proto.wandb_internal_pb2").Record

    until = time.monotonic() + 120
    while True:
        files = [path.read_bytes() for path in folder.glob("*.wandb")]
        records = [record_type.FromString(data) for file in files for data in _records(file)]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < until
        time.sleep(0.05)


def _records(data: bytes) -> Iterator[bytes]:
    """What a file in LevelDB's log format holds: blocks of 32 KiB with pieces of [checksum, length, kind]."""
    record, position = b"", 7  # wandb writes its own 7 bytes first
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left  # no piece begins so near to the end of a block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole record, or its last piece
            yield record
            record = b""


def _mlflow_rows(run_directory: Path) -> dict[int, dict[str, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run_directory / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(run_directory.parent.name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (run_directory.name, "FINISHED")
    found: dict[int, dict[str, float]] = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        assert len({row.step for row in history}) == len(history)
        for row in history:
            found.setdefault(row.step, {})[name] = row.value
    return found


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
        "import penstock_trackers.in_wandb, penstock_trackers.in_mlflow\n"
        "sys.exit(bool({'trackio', 'wandb', 'mlflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wandb_stays_offline_unless_it_is_told_otherwise() -> None:
    assert REGISTRY.choose("tracker", "wandb").settings.mode == "offline"
    with pytest.raises(ProblemError, match="mode"):
        REGISTRY.choose("tracker", {"use": "wandb", "mode": "on"})
