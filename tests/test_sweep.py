"""`penstock sweep`: every cell with the same seeds, once, whatever stops it on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import run
from penstock.hooks.problems import ProblemError
from penstock.run.records.sweep import SweptRun
from penstock.sweep.compare import compare

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
    page = Path(result["report"]).read_text()
    assert "softmax, loss-free" in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)


def test_the_same_command_again_trains_nothing(sweep_file):
    first = sweep(sweep_file)
    folders = sorted((sweep_file.parent / "runs" / "small").iterdir())
    assert sweep(sweep_file)["runs"] == first["runs"]
    assert sorted((sweep_file.parent / "runs" / "small").iterdir()) == folders


def test_a_stopped_run_is_continued_in_its_place(sweep_file):
    whole = sweep(sweep_file)
    row = whole["runs"][2]
    status = Path(row["run"]) / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "interrupted"}))
    (Path(row["run"]) / "sweep.json").unlink()
    again = sweep(sweep_file)["runs"][2]
    assert {**again, "seconds": 0} == {**row, "seconds": 0}


def test_a_dry_run_prices_every_cell_and_writes_nothing(sweep_file):
    plan = sweep(sweep_file, "--dry-run")
    assert [cell["runs"] for cell in plan["cells"]] == [2, 2]
    assert plan["seconds_left"] > 0
    assert not (sweep_file.parent / "runs").exists()


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


def test_the_interval_is_students():
    # differences 0.1, 0.2, 0.3: sd 0.1, t(0.975, 2) = 4.302653 (NIST table)
    rows = [row("a", seed, 1.0) for seed in range(3)] + [row("b", seed, 1.1 + seed / 10) for seed in range(3)]
    difference = compare(rows, "a")[1].difference
    assert difference is not None
    assert difference.half_width == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
