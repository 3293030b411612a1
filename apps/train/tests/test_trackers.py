"""Metrics are logged once a step, whatever a killed process left behind."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from penstock.hooks.contracts import StepRecord
from penstock.hooks.problems import ProblemError
from penstock.traces.trace import RoutingTrace
from penstock.train.observers import LoadTraceObserver
from penstock.train.trackers import JsonlTracker, TensorBoardTracker


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_resume_drops_later_rows_and_the_line_that_was_cut(tmp_path):
    tracker = JsonlTracker(run_directory=tmp_path)
    for step in (1, 2, 3):
        tracker.log(step, {"loss": float(step)})
    tracker.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    again = JsonlTracker(run_directory=tmp_path)
    again.resume(2)
    again.log(3, {"loss": 3.5})
    again.close()
    assert steps_of(tmp_path / "metrics.jsonl") == [1, 2, 3]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["loss"] == 3.5


@pytest.mark.parametrize(
    "line",
    [b'{"step": ', b'{"step": 1.5}', b"{}", b"7", b'{"step": NaN}', b"[" * 90_000, b"\xff", b'{"step": 1, "step": 2}'],
)
def test_a_damaged_row_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    tracker = JsonlTracker(run_directory=tmp_path)
    with pytest.raises(ProblemError, match=r"metrics\.jsonl:2: "):
        tracker.resume(2)
    assert path.read_bytes() == b'{"step": 1}\n' + line + b"\n"


def test_every_line_is_strict_json(tmp_path):
    tracker = JsonlTracker(run_directory=tmp_path)
    tracker.log(1, {"loss": math.nan, "norm": math.inf, "rate": 0.5})
    tracker.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=lambda name: 1 / 0) == {
        "step": 1,
        "loss": None,
        "norm": None,
        "rate": 0.5,
    }


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    first = TensorBoardTracker(run_directory=tmp_path)
    for step in (1, 2, 3):
        first.log(step, {"loss": float(step)})
    first.close()
    second = TensorBoardTracker(run_directory=tmp_path)
    second.resume(1)
    second.log(2, {"loss": 20.0})
    second.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 20.0)]


def record(step):
    return StepRecord(step, 8 * step, {}, np.full((2, 4), step, dtype=np.int64), (1, 3))


def test_the_load_trace_survives_a_resume(tmp_path):
    observer = LoadTraceObserver(run_directory=tmp_path, header={"k": 2})
    for step in (1, 2, 3):
        observer.on_step(record(step))
    observer.on_checkpoint(3)
    again = LoadTraceObserver(run_directory=tmp_path, header={"k": 2})
    again.on_resume(2)
    again.on_step(record(3))
    again.on_end()
    trace = RoutingTrace.load(tmp_path / "trace" / "train.npz")
    assert trace.header["steps"] == [1, 2, 3]
    assert (trace.header["layers"], trace.header["k"]) == ([1, 3], 2)
    assert trace.counts_SLE[:, 0, 0].tolist() == [1, 2, 3]


def test_every_second_step_is_kept_when_asked_and_dense_models_leave_nothing(tmp_path):
    observer = LoadTraceObserver(run_directory=tmp_path, header={}, every=2)
    for step in range(1, 6):
        observer.on_step(record(step))
    observer.on_end()
    assert RoutingTrace.load(observer.path).header["steps"] == [2, 4]
    dense = LoadTraceObserver(run_directory=tmp_path / "dense", header={})
    dense.on_step(StepRecord(1, 8, {}, np.zeros((0, 0), dtype=np.int64), ()))
    dense.on_end()
    assert not dense.path.exists()
