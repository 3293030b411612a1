"""What each tracking library has stored of a run, read back in the library's own format."""

from __future__ import annotations

import importlib
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
