"""What runs are called, what is ranked, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock.cli.main import run
from penstock.report.compare import compare
from penstock.report.data import read_run
from penstock.report.labels import distinguishing, labels
from penstock.report.learning import heldout_bits
from penstock.report.view import view
from penstock.run.directory import RunDirectory
from penstock.traces.trace import RoutingTrace


def make_run(path: Path, config: dict[str, Any] | None = None, **files: Any) -> Path:
    """A run directory with a config and the JSON files that are named."""
    path.mkdir(parents=True)
    (path / "config.resolved.yaml").write_text(json.dumps({"name": "r", **(config or {})}))
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


def evaluation(bits: float, text: str | None, version: str = "1", metric: str = "disjoint-256") -> dict[str, Any]:
    heldout = {"metrics": {f"heldout.bits_per_byte@{metric}": bits}, "version": version}
    known = {"heldout_text": {"sha256": text, "bytes": 5000, "documents": 3}} if text else {}
    return {
        "checkpoint": "step-00000040",
        "tasks": {"heldout": heldout},
        "heldout_bits_per_byte": bits,
        **known,
    }


def compared(*runs: Path):
    read = [read_run(path) for path in runs]
    names = labels(read)
    return compare(
        [view(each, name, f"run-{index}") for index, (each, name) in enumerate(zip(read, names, strict=True))]
    )


def evaluated(tmp_path: Path, *evaluations: dict[str, Any]) -> list[Path]:
    return [
        make_run(tmp_path / f"run-{index}", {"seed": index}, evaluation=each) for index, each in enumerate(evaluations)
    ]


def best(comparison: Any, column: int = 0) -> list[bool]:
    return [cells[column].best for _, cells in comparison.rows]


def test_bits_per_byte_of_one_text_are_ranked(tmp_path: Path) -> None:
    found = compared(*evaluated(tmp_path, evaluation(1.5, "a"), evaluation(1.25, "a")))
    assert "seed 1 has the lowest held-out bits per byte, 1.25, 0.25 below seed 0." in found.caption
    assert best(found) == [False, True]


@pytest.mark.parametrize(
    "other",
    [
        evaluation(1.25, "b"),
        evaluation(1.25, "a", version="2"),
        evaluation(1.25, "a", metric="stride-128-256"),
    ],
    ids=["text", "version", "windows"],
)
def test_bits_per_byte_of_another_text_task_or_window_are_not_ranked(tmp_path: Path, other: dict[str, Any]) -> None:
    found = compared(*evaluated(tmp_path, evaluation(1.5, "a"), other))
    assert "lowest" not in found.caption
    assert "of seed 0 and seed 1 are not ranked: they were not measured on the same" in found.caption
    assert best(found) == [False, False]


def test_a_text_that_is_not_recorded_is_not_ranked(tmp_path: Path) -> None:
    found = compared(*evaluated(tmp_path, evaluation(1.5, "a"), evaluation(1.25, None)))
    assert "lowest" not in found.caption
    assert "of seed 1 was measured on is not recorded" in found.caption
    assert best(found) == [False, False]


def test_runs_of_the_same_text_are_ranked_among_themselves(tmp_path: Path) -> None:
    found = compared(*evaluated(tmp_path, evaluation(1.5, "a"), evaluation(1.25, "a"), evaluation(0.5, "b")))
    assert "seed 1 has the lowest" in found.caption
    assert best(found) == [False, True, False]


def test_a_difference_that_the_shown_digits_hide_has_no_winner(tmp_path: Path) -> None:
    found = compared(*evaluated(tmp_path, evaluation(1.50001, "a"), evaluation(1.50002, "a")))
    assert "share the lowest held-out bits per byte, 1.50" in found.caption
    assert best(found) == [False, False]


def test_an_evaluation_in_training_is_never_ranked_against_one_of_all_text(tmp_path: Path) -> None:
    whole, part = evaluated(tmp_path, evaluation(1.5, "a"), {})
    (part / "metrics.jsonl").write_text('{"step": 40, "loss": 3.0}\n{"step": 40, "heldout/bits_per_byte": 1.25}\n')
    found = compared(whole, part)
    assert [figure.short for figure in found.figures] == ["bits per byte", "bits per byte, in training"]
    assert [[cell.text for cell in cells] for _, cells in found.rows] == [["1.50", "\u2014"], ["\u2014", "1.25"]]
    assert not any(best(found) + best(found, 1))
    assert found.caption == ""


@pytest.mark.parametrize(("data", "ranked"), [(("x", "x"), True), (("x", "y"), False)])
def test_evaluations_in_training_are_ranked_only_on_the_same_data(
    tmp_path: Path, data: tuple[str, str], ranked: bool
) -> None:
    runs = []
    for index, own in enumerate(data):
        config = {"seed": index, "train": {"evaluate_tokens": 64}, "data": {"sequence_length": 8}}
        path = make_run(tmp_path / str(index), config)
        rows = [{"step": 40, "loss": 3.0}, {"step": 40, "heldout/bits_per_byte": 2.0 - index}]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        RoutingTrace(np.ones((2, 1, 4), np.int64), {"data": own}).save(path / "trace" / "train.npz")
        runs.append(path)
    found = compared(*runs)
    assert best(found) == [False, ranked]
    (text,) = [card.caption for card in found.cards if card.title == "Held-out text, in training"]
    assert ("seed 1 has the lowest" in text) is ranked


@pytest.mark.parametrize(("other", "ranked"), [("A", True), ("B", False)])
def test_speeds_are_ranked_only_on_one_processor(tmp_path: Path, other: str, ranked: bool) -> None:
    runs = []
    for index, processor in enumerate(("A", other)):
        path = make_run(tmp_path / str(index), {"seed": index}, environment={"processor": processor, "host": "h"})
        (path / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 3.0, "tokens_per_second": {100 + index}}}\n')
        runs.append(path)
    found = compared(*runs)
    column = [figure.short for figure in found.figures].index("tokens/s")
    assert best(found, column) == [False, ranked]


def test_the_curve_of_a_part_never_ends_with_the_evaluation_of_all_text(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", {"train": {"evaluate_tokens": 8192}}, evaluation=evaluation(1.5, "a"))
    rows = [{"step": step, "heldout/bits_per_byte": bits} for step, bits in ((20, 1.75), (40, 1.375))]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bits = heldout_bits(read_run(path))
    assert bits is not None
    assert bits.part is not None
    assert bits.part[1].tolist() == [1.75, 1.375]
    assert bits.whole == (40, 1.5)
    assert "8,192 tokens of the held-out text take 1.38 at step 40" in bits.caption


def test_a_task_says_on_what_it_was_measured_with_the_digits_of_its_interval(tmp_path: Path) -> None:
    metric = "heldout.token_perplexity@disjoint-256"
    interval = {"low": 17.297, "high": 58.423, "standard_error": 10.5, "samples": 45, "method": "bootstrap"}
    details = {"bytes": 810_898, "standard_error_blocks": "documents"}
    task = {"metrics": {metric: 32.756}, "details": details, "intervals": {metric: interval}}
    path = make_run(tmp_path / "run", evaluation={"tasks": {"heldout": task}})
    run(["report", str(path)])
    page = (path / "report.html").read_text().replace("\u00a0", " ")
    assert "Measured on 45 documents, 811 kB (heldout)." in page
    assert '<td class="n">33</td><td class="n"><span title="bootstrap; 45 samples">17 to 58</span></td>' in page


def named(*configs: dict[str, Any]) -> list[str]:
    runs: Any = [SimpleNamespace(name=config.get("name", "r"), config=config) for config in configs]
    return labels(runs)


def test_runs_are_labelled_by_the_fewest_settings_that_differ() -> None:
    grid = [
        {"seed": seed, "model": {"router": {"use": f"penstock-routers:{router}"}}, "train": {"lr": 0.1 + seed}}
        for router in ("sigmoid-topk", "softmax-topk")
        for seed in (0, 1)
    ]
    assert named(*grid) == [
        "seed 0, sigmoid-topk",
        "seed 1, sigmoid-topk",
        "seed 0, softmax-topk",
        "seed 1, softmax-topk",
    ]
    assert named(*grid[::2]) == ["sigmoid-topk", "softmax-topk"]


def test_names_are_kept_where_they_distinguish() -> None:
    assert named({"name": "a", "seed": 0}, {"name": "b", "seed": 1}) == ["a", "b"]
    assert named({"name": "a", "seed": 0}, {"name": "a", "seed": 1}, {"name": "b"}) == ["a: seed 0", "a: seed 1", "b"]


def test_runs_of_equal_settings_are_numbered() -> None:
    assert named({"seed": 0}, {"seed": 0}, {"seed": 1}) == ["seed 0 (1)", "seed 0 (2)", "seed 1"]
    assert named({}, {}) == ["r (1)", "r (2)"]


def test_a_setting_that_only_one_config_has_is_said_to_be_missing_in_the_other() -> None:
    assert distinguishing([{"a": {"cap": 2}}, {"a": {}, "b": 1}])[0] in ("cap 2", "no b")


IMPOSSIBLE = {
    "evaluation": ({"heldout_bits_per_byte": -0.5}, "evaluation.json: heldout_bits_per_byte: -0.5 is below 0"),
    "profile": (
        {"layers": [{"layer": 3, "max_violation": float("nan"), "counts": [4, -4]}]},
        "profile.json: layers.0.counts.1: -4 is below 0",
    ),
    "simulation": (
        {"rows": [{"gpus": 8, "mean_seconds": -1.0}]},
        "simulation.json: rows.0.mean_seconds: -1 is below 0",
    ),
    "sizes": ([{"format": "fp32", "bytes": float("inf")}], "sizes.json: 0.bytes: inf is not finite"),
    "stages": ({"train": -3.0}, "stages.json: train: -3 is below 0"),
}
"""A file of a run, what no measurement gives, and the warning."""


def test_impossible_figures_are_left_out_and_named_on_stderr_and_on_the_page(tmp_path: Path, capsys) -> None:
    path = make_run(tmp_path / "run", **{name: value for name, (value, _) in IMPOSSIBLE.items()})
    (path / "metrics.jsonl").write_text('{"step": 7, "loss": 3.0, "load/gini": -0.5, "heldout/bits_per_byte": -1.0}\n')
    read = read_run(path)
    assert read.evaluation is not None
    assert read.evaluation.heldout_bits_per_byte is None
    assert read.profile is not None
    assert read.profile.layers[0].max_violation is None
    assert read.profile.layers[0].counts is None
    assert read.simulation is not None
    assert read.simulation.rows == []
    assert read.sizes == []
    assert read.stages == {}
    assert read.metrics is not None
    assert read.metrics.series("load/gini") is None
    run(["report", str(RunDirectory(path).path)])
    said = capsys.readouterr().err
    page = (path / "report.html").read_text()
    for warning in (*(text for _, text in IMPOSSIBLE.values()), "metrics.jsonl: load/gini of step 7: -0.5 is below 0"):
        assert warning in said
        assert warning in page


def test_a_correlation_below_0_is_possible(tmp_path: Path) -> None:
    tasks = {"cola": {"metrics": {"cola.mcc": -0.1, "cola.perplexity": -2.0}}}
    read = read_run(make_run(tmp_path / "run", evaluation={"tasks": tasks}))
    assert read.evaluation is not None
    assert read.evaluation.tasks["cola"].metrics == {"cola.mcc": -0.1}
    assert len(read.problems) == 1


def test_a_damaged_record_is_named_on_stderr(tmp_path: Path, capsys) -> None:
    path = make_run(tmp_path / "run")
    (path / "profile.json").write_text("{")
    run(["report", str(path), "--json"])
    said = capsys.readouterr()
    assert "profile.json" in said.err
    assert json.loads(said.out)["report"].endswith("report.html")
