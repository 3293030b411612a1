"""Records are written as JSON and read again by one way, which is strict about types and tolerant about keys."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pkgutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hooks.contracts import Interval
from penstock.hooks.problems import ProblemError
from penstock.run import records
from penstock.run.records.evaluation import Baselines, Evaluation, Performance, Sample, TaskFigures, heldout_figure
from penstock.run.records.profile import LayerProfile, Profile
from penstock.run.records.record import ABSENT, Record, read_record, write_record
from penstock.run.records.simulation import NetworkRow, NetworkSweep, Simulation
from penstock.run.records.training import FormatSize, Status

NAMES = [f"{records.__name__}.{found.name}" for found in pkgutil.iter_modules(records.__path__)]
KINDS = sorted(
    {
        kind
        for name in NAMES
        for kind in vars(importlib.import_module(name)).values()
        if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record
    },
    key=lambda kind: kind.__name__,
)
OF_FREE_FORM = {TaskFigures, Evaluation, NetworkSweep, Simulation}
"""Those with a field of any type, which have examples of their own."""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_record_is_a_frozen_dataclass_with_slots(kind: type[Record]) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert "__slots__" in vars(kind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OF_FREE_FORM], ids=lambda kind: kind.__name__)
def test_every_record_survives_its_json(kind: type[Record]) -> None:
    with_numbers = st.from_type(kind)

    @settings(max_examples=20, deadline=None)
    @given(with_numbers)
    def survives(value: Record) -> None:
        text = json.dumps(value.to_json())
        assert json.dumps(kind.from_json(json.loads(text)).to_json()) == text

    survives()


def test_free_form_fields_survive_their_json() -> None:
    interval = Interval(0.25, 0.75, 0.125, 60, "percentile bootstrap")
    figures = TaskFigures({"accuracy": 0.5, "bits": None}, {"n": [1, {"a": "b"}]}, {"accuracy": interval})
    evaluation = Evaluation(
        "step-1",
        {"lambada": figures},
        baselines=Baselines(xz_bits_per_byte=2.0),
        samples=[Sample("a", "b", 0.0)],
        performance=Performance(prefill_ms=1.0),
    )
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation
    case = Simulation(topology="graph", value={"use": "graph"}, rows=[NetworkRow(8, 1e-3)])
    simulation = Simulation(topology="graph", sweep=NetworkSweep("topology", [case]), exported=["a.txt"])
    assert Simulation.from_json(simulation.to_json()) == simulation


def test_figures_that_are_no_numbers_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_record(path, Profile(layers=[LayerProfile(1, gini=math.nan, cv=math.inf)]))
    profile = read_record(Profile, path)
    assert profile is not None
    (layer,) = profile.layers
    assert layer.gini is not None
    assert math.isnan(layer.gini)
    assert layer.cv == math.inf


def test_a_newer_file_opens_without_what_is_not_known_yet() -> None:
    assert Status.from_json({"state": "finished", "step": 4, "colour": {"red": 1}}) == Status("finished", 4)


def test_an_older_file_opens_with_defaults_for_what_it_lacks() -> None:
    assert NetworkRow.from_json({"gpus": 8, "mean_seconds": 1e-3}) == NetworkRow(8, 1e-3)


def test_a_whole_number_is_a_float_too() -> None:
    assert FormatSize.from_json({"format": "fp32", "bytes": 8}) == FormatSize("fp32", 8.0)


@pytest.mark.parametrize(
    ("kind", "value", "name"),
    [
        (Status, {"state": "finished", "step": "4"}, "step"),
        (Status, {"state": "finished", "step": 4.0}, "step"),
        (Status, {"state": "finished", "step": True}, "step"),
        (Status, {"parameters": {"total": 8, "by_role": {"expert": None}}}, "parameters.by_role.expert"),
        (Profile, {"layers": [{"layer": 1}, {"layer": "two"}]}, "layers.1.layer"),
        (NetworkRow, {"gpus": 8}, "mean_seconds"),
        (Evaluation, {"tasks": {"heldout": {"metrics": {"x": "many"}}}}, "tasks.heldout.metrics.x"),
    ],
)
def test_a_wrong_type_is_a_problem_with_file_and_field(kind: type[Record], value: Any, name: str) -> None:
    with pytest.raises(ProblemError) as caught:
        kind.from_json(value, "run/file.json")
    assert [problem.where for problem in caught.value.problems] == [f"run/file.json: {name}"]


def test_a_missing_file_is_none_and_a_damaged_one_is_a_problem(tmp_path: Path) -> None:
    assert read_record(Status, tmp_path / "status.json") is None
    (tmp_path / "status.json").write_text('{"state": "fin')
    with pytest.raises(ProblemError, match=r"status\.json"):
        read_record(Status, tmp_path / "status.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ProblemError, match="cannot be read"):
        read_record(Status, tmp_path / "folder")


def test_containers_of_records_are_read_and_written_too(tmp_path: Path) -> None:
    sizes = [FormatSize("fp32", 8.0), FormatSize("bf16", 4.0)]
    write_record(tmp_path / "sizes.json", sizes)
    assert read_record(list[FormatSize], tmp_path / "sizes.json") == sizes


@dataclass(frozen=True, slots=True)
class Example(Record):
    null: int | None = None
    left_out: int | None = field(default=None, metadata=ABSENT)


def test_none_is_written_as_null_or_left_out_as_the_field_says() -> None:
    assert Example().to_json() == {"null": None}
    assert Example(1, 2).to_json() == {"null": 1, "left_out": 2}


def test_the_heldout_figure_is_of_all_held_out_text() -> None:
    whole = {"heldout.bits_per_byte@disjoint-256": 1.5}
    part = {"heldout.bits_per_byte@first-8-tokens-disjoint-256": 1.2}
    assert heldout_figure({**part, **whole}) == 1.5
    assert heldout_figure(part) is None


def test_records_need_no_torch() -> None:
    code = f"import sys, {', '.join(NAMES)}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
