"""`penstock sweep`: every cell with the same seeds, once, whatever stops it on the way."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError
from penstock.run.records.sweep import MissingRun, SweepFigures, SweptRun
from penstock.sweep.compare import compare, line, missing_lines
from penstock.sweep.sections import summary

SWEEP = """\
name: small
config: configs/quickstart.yaml
set: {train.evaluate_every: null, train.trackers: [{use: jsonl}]}
axes:
  router:
    sigmoid: {model.router: {use: sigmoid-topk, k: 2}}
    softmax: {model.router: {use: softmax-topk, k: 2}}
  balance:
    loss-free: {model.balance: [{use: loss-free, rate: 0.01}]}
seeds: [0, 1]
"""


@pytest.fixture
def sweep_file(workplace: Path, tmp_path: Path) -> Path:
    config = workplace / "configs" / "quickstart.yaml"
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP.replace("configs/quickstart.yaml", str(config)))
    return path


def sweep(path: Path, *arguments: str) -> dict[str, Any]:
    return run(["sweep", str(path), "--runs", str(path.parent / "runs"), *arguments])


def test_every_cell_is_trained_once_with_every_seed_and_compared_in_pairs(sweep_file):
    result = sweep(sweep_file)
    assert [(row["cell"], row["seed"]) for row in result["runs"]] == [
        ("sigmoid, loss-free", 0),
        ("softmax, loss-free", 0),
        ("sigmoid, loss-free", 1),
        ("softmax, loss-free", 1),
    ]
    sigmoid, softmax = result["cells"]
    figures = {(row["cell"], row["seed"]): row["bits_per_byte"] for row in result["runs"]}
    differences = [figures["softmax, loss-free", seed] - figures["sigmoid, loss-free", seed] for seed in (0, 1)]
    assert sigmoid["difference"] is None
    assert softmax["difference"]["mean"] == pytest.approx(sum(differences) / 2)
    assert len({(row["seed"], row["flops"]) for row in result["runs"]}) == 2
    assert softmax["difference"]["half_width"] is None
    assert softmax["verdict"] == "too few seeds (n = 2)"
    assert all(row["text"] and row["text_bytes"] > 1000 and row["machine"] for row in result["runs"])
    page = Path(result["report"]).read_text()
    assert "softmax, loss-free" in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)


def test_the_same_command_again_trains_nothing(sweep_file):
    first = sweep(sweep_file)
    folders = sorted((sweep_file.parent / "runs" / "small").iterdir())
    assert sweep(sweep_file)["runs"] == first["runs"]
    assert sorted((sweep_file.parent / "runs" / "small").iterdir()) == folders


def test_figures_stay_when_the_directory_of_a_run_is_gone(sweep_file):
    whole = sweep(sweep_file)
    row = whole["runs"][2]
    assert row["max_violation"] > 0
    shutil.rmtree(row["run"])
    sweep_file.write_text(sweep_file.read_text() + "# another file, so the sweep is walked through again\n")
    again = sweep(sweep_file)
    assert again["cells"] == whole["cells"]
    assert again["runs"][2] == {**row, "run": ""}
    assert not Path(row["run"]).exists()


def test_a_dry_run_prices_every_cell_and_writes_nothing(sweep_file):
    plan = sweep(sweep_file, "--dry-run")
    assert [cell["runs"] for cell in plan["cells"]] == [2, 2]
    assert plan["seconds_left"] > 0
    assert not (sweep_file.parent / "runs").exists()


def test_shared_layers_compute_as_much_as_others(sweep_file):
    shared = "none: {model.sharing: []}\n    one: {model.sharing: [{use: attention}, tied-embeddings]}"
    balance = "  balance:\n    loss-free: {model.balance: [{use: loss-free, rate: 0.01}]}"
    sweep_file.write_text(sweep_file.read_text().replace(balance, f"  sharing:\n    {shared}"))
    cells = sweep(sweep_file, "--dry-run")["cells"]
    assert [cell["cell"] for cell in cells if "one" in cell["cell"]]
    assert len({cell["flops"] for cell in cells}) == 1


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (("k: 2}}\n    softmax", "kk: 2}}\n    softmax"), "unknown-field", "cell 'sigmoid, loss-free'"),
        (("seeds: [0, 1]", "seeds: [0, 0]"), "bad-value", "each seed may appear only once"),
        (("seeds: [0, 1]", "baseline: sigmoid"), "bad-value", "sigmoid, loss-free; softmax, loss-free"),
        (
            ("softmax: {", "softmax: {model.moe_intermediate_size: 64, "),
            "unequal-flops",
            "cell 'softmax, loss-free'",
        ),
        (("axes:", "axis:"), "unknown-field", "did you mean 'axes'"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said_before_any_work(sweep_file, change, code, named):
    sweep_file.write_text(sweep_file.read_text().replace(*change))
    with pytest.raises(ProblemError) as caught:
        sweep(sweep_file)
    assert code in {problem.code for problem in caught.value.problems}
    assert named in str(caught.value)
    assert not (sweep_file.parent / "runs").exists()


def row(cell: str, seed: int, bits: float) -> SweptRun:
    return SweptRun(bits, tokens=1000, seconds=2.0, active_parameters=7, flops=10**9, cell=cell, seed=seed)


def test_differences_are_paired_by_seed_and_not_of_means():
    # Seeds differ by far more than the cells do; only pairing shows that `b` is better by 0.01 every time.
    rows = [row("a", seed, 1.0 + seed) for seed in range(3)] + [row("b", seed, 0.99 + seed) for seed in range(3)]
    difference = compare(rows, "a")[1].difference
    assert difference is not None
    assert difference.mean == pytest.approx(-0.01)
    assert difference.half_width == pytest.approx(0, abs=1e-12)


def test_a_seed_that_the_baseline_has_not_run_yet_is_left_out():
    rows = [row("a", 0, 1.0), row("b", 0, 1.1), row("b", 1, 5.0)]
    difference = compare(rows, "a")[1].difference
    assert difference is not None
    assert difference.mean == pytest.approx(0.1)
    assert difference.half_width is None
    assert difference.pairs == 1


def test_two_equal_differences_are_no_verdict():
    rows = [row("a", seed, 1.0) for seed in range(2)] + [row("b", seed, 1.0001) for seed in range(2)]
    assert compare(rows, "a")[1].verdict == "too few seeds (n = 2)"


def test_runs_of_another_held_out_text_are_no_pairs():
    rows = [replace(row(cell, 0, 1.0), text=text) for cell, text in (("a", "x"), ("b", "y"))]
    (_, other) = compare(rows, "a")
    assert other.difference is None
    assert other.verdict == "other held-out text"


def test_a_cell_whose_baseline_has_not_run_is_not_called_the_baseline():
    assert compare([row("b", 0, 1.0)], "a")[0].verdict == "no pair yet"


def test_a_figure_has_the_digits_that_its_interval_leaves_it():
    rows = [row("a", seed, 1.0) for seed in range(3)] + [row("b", seed, 1.1 + seed / 10) for seed in range(3)]
    name, seeds, bits, against, verdict, *_ = line(compare(rows, "a")[1])
    assert (name, seeds, bits, against, verdict) == (
        "b",
        "3",
        "1.200",
        "+0.20 \xb1 0.25",
        "no difference shown (n = 3)",
    )


def test_cells_without_figures_are_in_the_table_with_the_reason():
    missing = [MissingRun("b", 0, "failed: the loss is nan at step 3"), MissingRun("c", 0, "not run yet")]
    result = SweepFigures("a", compare([row("a", 0, 1.0)], "a"), [row("a", 0, 1.0)], missing)
    assert [(name, why) for name, _, _, _, why, *_ in missing_lines(result)] == [
        ("b", "failed: the loss is nan at step 3"),
        ("c", "not run yet"),
    ]
    assert "b with seed 0 failed: the loss is nan at step 3." in summary(result, 3)


def test_a_failed_run_is_named_on_the_page_and_the_others_go_on(sweep_file):
    text, wild = sweep_file.read_text(), "k: 2}, train.optimizer: {use: muon, lr: 1.0e+30}}\n    softmax"
    sweep_file.write_text(text.replace("k: 2}}\n    softmax", wild))
    with pytest.raises(ProblemError, match="became nan"):
        sweep(sweep_file)
    folder = sweep_file.parent / "runs" / "small"
    found = json.loads((folder / "sweep.json").read_text())
    assert [(run["cell"], run["seed"]) for run in found["missing"]] == [
        ("sigmoid, loss-free", 0),
        ("sigmoid, loss-free", 1),
    ]
    assert all("became nan" in run["why"] for run in found["missing"])
    assert [(cell["state"], cell["seeds"]) for cell in found["cells"]] == [("failed", 0), ("finished", 2)]
    assert "failed: " in (folder / "sweep.html").read_text()


def test_the_interval_is_students():
    # differences 0.1, 0.2, 0.3: sd 0.1, t(0.975, 2) = 4.302653 (NIST table)
    rows = [row("a", seed, 1.0) for seed in range(3)] + [row("b", seed, 1.1 + seed / 10) for seed in range(3)]
    difference = compare(rows, "a")[1].difference
    assert difference is not None
    assert difference.half_width == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
