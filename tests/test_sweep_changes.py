"""What a sweep makes of changes since its last walk: of rungs, of its data, of earlier versions, and of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import crash
import pytest

from penstock.cli.main import run
from penstock.hooks.contracts.launching import Job
from penstock.hooks.jobs import outcome_of
from penstock.hooks.problems import ExitCode, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.records.record import read_record
from penstock.run.records.sweep import FailedRun, SweepFigures
from penstock.sweep.controller import Controller
from penstock.sweep.data import with_data
from penstock.sweep.grid import load_sweep
from penstock.sweep.inline import Inline
from penstock.sweep.measure import measure

SWEEP = """\
name: changed
config: tiny.yaml
set: {train.tokens: 384, train.evaluate_every: null, train.observers: [], train.trackers: []}
axes:
  rate:
    low: {train.optimizer: {use: adamw, lr: 0.001}}
    high: {train.optimizer: {use: adamw, lr: 0.01}}
seeds: [0]
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(crash.CONFIG.format(corpus=crash.write_corpus(tmp_path / "corpus")))
    path = tmp_path / "changed.yaml"
    path.write_text(SWEEP)
    return path


def sweep(path: Path, *arguments: str) -> dict[str, Any]:
    return run(["sweep", str(path), "--runs", str(path.parent / "runs"), *arguments])


def folder(path: Path) -> Path:
    return path.parent / "runs" / "changed"


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def figures(path: Path) -> SweepFigures:
    found = read_record(SweepFigures, folder(path) / "sweep.json")
    assert found is not None
    return found


def controller(path: Path) -> Controller:
    registry, runs = Registry.discover(), path.parent / "runs"
    return Controller(with_data(load_sweep(path, registry), runs, prepare=True), runs, registry, Inline())


# ---------------------------------------------------------------------------------------------- rungs


def test_a_rung_that_is_added_to_a_finished_sweep_leaves_its_runs_alone(sweep_file):
    before = sweep(sweep_file)
    pointers = {path: path.read_bytes() for path in folder(sweep_file).rglob("run.json")}
    change(sweep_file, "seeds: [0]", "seeds: [0]\nrungs: [0.25]")
    after = sweep(sweep_file)
    assert after["runs"] == before["runs"]
    assert {path: path.read_bytes() for path in pointers} == pointers
    assert sorted(each.tokens for each in figures(sweep_file).rungs) == [96, 96, 384, 384]
    (beside, _) = (json.loads(path.read_text())["run"] for path in folder(sweep_file).rglob("beside.json"))
    with pytest.raises(ProblemError, match="at step 2 of 6") as caught:
        measure(folder(sweep_file) / beside, Registry.discover())
    assert caught.value.problems[0].code == "unfinished-run"


# ---------------------------------------------------------------------------------------------- data


def test_cells_that_were_trained_on_another_text_are_trained_again(sweep_file):
    before = {row["cell"]: row for row in sweep(sweep_file)["runs"]}
    document = next(path for path in sorted((sweep_file.parent / "corpus").iterdir()))
    document.write_text(document.read_text() * 3)
    change(sweep_file, "seeds: [0]", "    none: {train.optimizer: {use: adamw, lr: 1.0e-7}}\nseeds: [0]")
    after = {row["cell"]: row for row in sweep(sweep_file)["runs"]}
    assert all(after[cell]["run"] != before[cell]["run"] for cell in before)
    read = {(Path(row["run"]) / "data.json").read_text() for row in after.values()}
    assert len(read) == 1


def test_a_finished_sweep_is_not_finished_for_another_text_and_is_for_an_equal_copy(sweep_file):
    before = sweep(sweep_file)["runs"]
    documents = sorted((sweep_file.parent / "corpus").iterdir())
    text = documents[0].read_text()
    documents[0].write_text(text + text)
    assert [row["bits_per_byte"] for row in sweep(sweep_file)["runs"]] != [row["bits_per_byte"] for row in before]
    documents[0].write_text(text)
    assert sweep(sweep_file)["runs"] == before


def test_a_text_that_is_gone_is_named_before_any_work_and_its_tokens_outlive_it(sweep_file):
    corpus = sweep_file.parent / "corpus"
    corpus.rename(sweep_file.parent / "away")
    for arguments in ((), ("--dry-run",)):
        with pytest.raises(ProblemError, match=str(corpus)):
            sweep(sweep_file, *arguments)
    assert not folder(sweep_file).exists()
    (sweep_file.parent / "away").rename(corpus)
    before = sweep(sweep_file)["runs"]
    corpus.rename(sweep_file.parent / "away")
    (folder(sweep_file) / "finished.json").unlink()
    assert sweep(sweep_file)["runs"] == before


def test_cells_of_unlike_texts_are_refused_unless_nothing_compares_them(sweep_file):
    change(
        sweep_file,
        "  rate:",
        "  split:\n    few: {data.heldout_share: 0.2}\n    many: {data.heldout_share: 0.4}\n  rate:",
    )
    with pytest.raises(ProblemError, match=r"changed.yaml:4:\d+: axes.*differ in data.heldout_share") as caught:
        sweep(sweep_file, "--dry-run")
    assert {problem.code for problem in caught.value.problems} == {"other-data"}
    change(
        sweep_file, "seeds: [0]", "seeds: [0]\nobjectives: {tasks.score: maximize}\ntasks: [heldout]\nlauncher: null"
    )
    loaded = load_sweep(sweep_file, Registry.discover())
    assert len(loaded.cells) == 4


def test_the_figures_of_cells_are_those_of_the_vocabulary_that_the_text_fills(sweep_file):
    change(sweep_file, "seeds: [0]", "seeds: [0]\nobjectives: {bits_per_byte: minimize, parameters: minimize}")
    config = sweep_file.parent / "tiny.yaml"
    change(config, "vocab_size: 300", "vocab_size: 50_000")
    sweep(sweep_file)
    for cell, row in zip(figures(sweep_file).cells, figures(sweep_file).runs, strict=True):
        status = json.loads((Path(row.run) / "status.json").read_text())
        assert cell.parameters == status["parameters"]["total"] < 50_000


def test_cells_of_an_earlier_version_are_found_if_they_read_the_same_text(sweep_file):
    before = sweep(sweep_file)["runs"]
    loaded = load_sweep(sweep_file, Registry.discover())
    for earlier, cell in zip(loaded.cells, controller(sweep_file).sweep.cells, strict=True):
        (folder(sweep_file) / "cells" / cell.key).rename(folder(sweep_file) / "cells" / earlier.key)
    (folder(sweep_file) / "finished.json").unlink()
    assert sweep(sweep_file)["runs"] == before
    document = next((sweep_file.parent / "corpus").iterdir())
    document.write_text(document.read_text() * 2)
    after = sweep(sweep_file)["runs"]
    assert {row["run"] for row in after}.isdisjoint(row["run"] for row in before)


# ---------------------------------------------------------------------------------------------- the machine


def write_to_a_full_disk(argument: dict[str, Any]) -> dict[str, Any]:
    Path("/dev/full").write_bytes(b"x")
    return argument


needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")


@needs_dev_full
def test_a_full_disk_is_a_problem_of_the_machine():
    outcome = outcome_of(f"{__name__}:write_to_a_full_disk", Job("a", {}))
    assert outcome.state == "failed"
    assert [(problem["code"], problem["where"]) for problem in outcome.problems] == [("disk", "")]


@needs_dev_full
@pytest.mark.parametrize("launcher", ["null", "{use: local, workers: 1, pin: false}"])
def test_a_disk_that_fills_up_ends_the_sweep_and_fails_no_cell(sweep_file, launcher):
    change(sweep_file, "seeds: [0]", f"seeds: [0]\nlauncher: {launcher}")
    walk = controller(sweep_file)
    rungs = walk._trial(walk.sweep.cells[1], walk.phases[0], 0).files.folder / "rungs"
    rungs.mkdir(parents=True)
    (rungs / ".384.json.partial").symlink_to("/dev/full")  # what the result is written to before it has its name
    with pytest.raises(ProblemError, match="No space left") as caught:
        sweep(sweep_file)
    assert [problem.code for problem in caught.value.problems] == ["disk"]
    assert caught.value.exit_code == ExitCode.FAILED
    assert not list(folder(sweep_file).rglob("failed.json"))
    assert [cell.state for cell in figures(sweep_file).cells] == ["pending", "pending"]
    assert [cell["state"] for cell in sweep(sweep_file)["cells"]] == ["finished", "finished"]  # it was emptied since


@needs_dev_full
def test_a_disk_that_is_full_at_the_start_is_one_error(sweep_file):
    cell = controller(sweep_file).sweep.cells[0]
    shape = folder(sweep_file) / "cells" / cell.key / ".shape.json.partial"
    shape.parent.mkdir(parents=True)
    shape.symlink_to("/dev/full")
    with pytest.raises(ProblemError, match="No space left"):
        sweep(sweep_file)
    assert [cell["state"] for cell in sweep(sweep_file)["cells"]] == ["finished", "finished"]


def test_a_failed_run_keeps_the_place_and_the_remedy(sweep_file):
    change(sweep_file, "lr: 0.01}", "lr: 1.0e+30}")
    with pytest.raises(ProblemError, match="high"):
        sweep(sweep_file)
    (path,) = folder(sweep_file).rglob("failed.json")
    failure = read_record(FailedRun, path)
    assert failure is not None
    assert failure.attempts == 1
    assert failure.where
    assert failure.fix
