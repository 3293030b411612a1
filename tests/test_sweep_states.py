"""The states of a sweep's cells: what a budget leaves out, what has failed and why, and what a command says of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import click
import pytest

from penstock.cli.main import run
from penstock.hooks.contracts.launching import Job, Outcome
from penstock.hooks.problems import ExitCode, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.records.record import read_record
from penstock.run.records.sweep import FailedRun, SweepFigures
from penstock.sweep.analysis import analyse
from penstock.sweep.compare import text
from penstock.sweep.controller import Controller
from penstock.sweep.documents import Documents
from penstock.sweep.figures import figures_of
from penstock.sweep.grid import load_sweep
from penstock.sweep.inline import Inline
from penstock.sweep.sections import decisions_table
from penstock.sweep.shape import shapes_of
from penstock.sweep.tables import reproduce_lines

SWEEP = """\
name: states
config: CONFIG
set: {train.tokens: 512, train.evaluate_every: null, train.observers: [], train.trackers: []}
axes:
  rate:
    low: {train.optimizer: {use: adamw, lr: 0.001}}
    high: {train.optimizer: {use: adamw, lr: 0.01}}
seeds: [0, 1]
"""
PHASES = "phases: {short: {tokens: 256}, finalists: 2}\nlauncher: null\nrungs: []\n"


@pytest.fixture
def sweep_file(workplace: Path, tmp_path: Path) -> Path:
    path = tmp_path / "states.yaml"
    path.write_text(SWEEP.replace("CONFIG", str(workplace / "configs" / "quickstart.yaml")))
    return path


def sweep(path: Path, *arguments: str) -> dict[str, Any]:
    return run(["sweep", str(path), "--runs", str(path.parent / "runs"), *arguments])


def walk(path: Path, launcher: Inline | None = None) -> SweepFigures:
    registry = Registry.discover()
    loaded = load_sweep(path, registry)
    controller = Controller(loaded, path.parent / "runs", registry, launcher or Inline())
    shapes = shapes_of(loaded, controller.files)
    with suppress(KeyboardInterrupt):
        controller.run()
    return figures_of(controller, shapes)


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


class Failing(Inline):
    """Fails the runs of some names, if said only on the way to so many tokens, loses others as often as said, and
    interrupts before the last of so many jobs."""

    def __init__(
        self, fails: str = "-", loses: dict[str, int] | None = None, interrupt_at: int = 99, fails_at: int = 0
    ) -> None:
        self.fails, self.loses, self.left, self.fails_at = fails, loses or {}, interrupt_at, fails_at
        self.begun: list[str] = []

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        for job in jobs:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            self.begun.append(job.name)
            if self.fails in job.name and self.fails_at in (0, job.argument["tokens"]):
                problem = {"code": "diverged", "what": "the loss is nan"}
                yield Outcome(job.name, "failed", None, problem["what"], [problem])
            elif self.loses.get(job.name):
                self.loses[job.name] -= 1
                yield Outcome(job.name, "lost", None, "killed")
            else:
                yield from super().run(function, [job])


# ---------------------------------------------------------------------------------------------- budgets


def test_what_is_spent_is_what_was_trained_and_not_what_was_planned(sweep_file):
    stopped = walk(sweep_file, Failing(interrupt_at=2))
    assert stopped.spent is not None
    assert (stopped.spent.tokens, stopped.spent.runs) == (512, 1)
    change(sweep_file, "lr: 0.01}", "lr: 1.0e+30}")
    change(sweep_file, "lr: 0.001}", "lr: 1.0e+31}")
    assert (failed := walk(sweep_file).spent) is not None
    assert failed.tokens == 0


def test_ramps_that_a_budget_does_not_allow_are_not_begun(sweep_file):
    change(sweep_file, "seeds: [0, 1]", "seeds: [0]\nrate: {use: lr-find, seeds: 1, steps: 5}\nbudget: {tokens: 1000}")
    figures = walk(sweep_file)  # 5 steps of 128 tokens for the first cell, and then no room for a run of 512
    assert {cell.cell: cell.state for cell in figures.cells} == {"low": "capped", "high": "capped"}
    assert figures.spent is not None
    assert figures.spent.tokens <= 640
    assert len(list((sweep_file.parent / "runs").rglob("rates.json"))) == 1
    assert walk(sweep_file) == figures
    priced = sweep(sweep_file, "--dry-run")
    assert priced["tokens_cap"] == 1000


def test_a_final_run_counts_what_it_trains_after_its_trunk(sweep_file):
    wsd = "train.schedule: {use: wsd, warmup_tokens: 128, decay_tokens: 128}, train.tokens: 512"
    change(sweep_file, "train.tokens: 512", wsd)
    sweep_file.write_text(sweep_file.read_text() + PHASES.replace("256}", "256, schedule: trunk}"))
    figures = walk(sweep_file)
    trunk = 128  # a short run of 256 tokens without its decay
    assert figures.spent is not None
    assert figures.spent.tokens == 2 * (256 + (512 - trunk) + 512)
    change(sweep_file, "rungs: []", f"rungs: []\nbudget: {{tokens: {figures.spent.tokens}}}")
    assert [cell.state for cell in walk(sweep_file).cells] == ["finished", "finished"]


# ---------------------------------------------------------------------------------------------- failures


def test_a_failed_cell_trains_no_further_seed_and_each_run_says_why_it_has_no_figures(sweep_file):
    change(sweep_file, "seeds: [0, 1]", "seeds: [0, 1]\nbudget: {runs: 3}")
    launcher = Failing(fails="high; all, seed 0")
    figures = walk(sweep_file, launcher)
    assert launcher.begun == ["low; all, seed 0", "high; all, seed 0", "low; all, seed 1"]
    assert {(run.cell, run.seed): run.why for run in figures.missing} == {
        ("high", 0): "failed: the loss is nan",
        ("high", 1): "capped: the budget of 3 runs is used up",
    }
    change(sweep_file, "budget: {runs: 3}", "budget: {runs: 4}")
    again = Failing()
    assert ("high", 1, "left out: an earlier seed failed: the loss is nan") in [
        (run.cell, run.seed, run.why) for run in walk(sweep_file, again).missing
    ]
    assert again.begun == []


def test_a_cell_whose_further_seed_fails_shows_its_whole_runs_and_is_on_no_front(sweep_file):
    """The run that fails has a result at a rung, which both seeds have."""
    change(sweep_file, "seeds: [0, 1]", "seeds: [0, 1]\nrungs: [256]\nconfirm: 1")
    figures = walk(sweep_file, Failing(fails="seed 1", fails_at=512))
    (failed,) = [cell for cell in figures.cells if cell.state == "failed"]
    (first,) = [run for run in figures.runs if run.cell == failed.cell]
    assert [(each.seed, each.tokens) for each in figures.rungs if each.cell == failed.cell] == [
        (0, 256),
        (0, 512),
        (1, 256),
    ]
    assert (failed.seeds, failed.tokens, failed.bits_per_byte) == (1, 512, first.bits_per_byte)
    assert failed.verdict == "failed: the loss is nan"
    assert failed.verdict in text(figures)
    (line,) = reproduce_lines(figures, failed)
    assert "seed=0" in line
    assert "--until" not in line
    found = analyse(figures, Documents())
    (front,) = found.objective_fronts
    assert [member.cell for member in front.members] == [c.cell for c in figures.cells if c is not failed]
    assert found.effects.seeds == (0,)
    assert [level.cells for level in found.effects.levels] == [1, 1]
    assert ("confirm, seed 1", failed.cell) in [(row[0], row[3]) for row in decisions_table(figures).rows]


def test_a_sweep_that_is_terminated_leaves_its_report(sweep_file):
    """As Slurm, systemd and `timeout` end a process."""
    folder = sweep_file.parent / "runs" / "states"

    def terminate_after_a_result() -> None:
        while not [*folder.rglob("rungs/*.json")]:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=terminate_after_a_result, daemon=True).start()
    with pytest.raises((KeyboardInterrupt, click.exceptions.Abort, SystemExit)):
        sweep(sweep_file)
    figures = read_record(SweepFigures, folder / "sweep.json")
    assert figures is not None
    assert 0 < len(figures.runs) < 4
    assert (folder / "sweep.html").exists()
    assert (folder / "summary.md").exists()


def test_attempts_are_those_of_the_run(sweep_file):
    lost = {"low; all, seed 0": 1, "high; all, seed 0": 2}
    walk(sweep_file, Failing(loses=lost))
    (path,) = (sweep_file.parent / "runs").rglob("failed.json")
    failure = read_record(FailedRun, path)
    assert failure is not None
    assert failure.attempts == 2


def test_a_sweep_of_which_no_cell_reaches_the_end_is_an_error_with_phases_too(sweep_file):
    sweep_file.write_text(sweep_file.read_text() + PHASES + "budget: {tokens: 100}\n")
    with pytest.raises(ProblemError, match="budget of 100") as caught:
        sweep(sweep_file)
    assert {problem.code for problem in caught.value.problems} == {"nothing-finished"}
    assert caught.value.exit_code == ExitCode.FAILED
    change(sweep_file, "budget: {tokens: 100}\n", "")
    change(sweep_file, "lr: 0.01}", "lr: 1.0e+30}")
    change(sweep_file, "lr: 0.001}", "lr: 1.0e+31}")
    with pytest.raises(ProblemError, match="became") as caught:
        sweep(sweep_file)
    assert {problem.code for problem in caught.value.problems} == {"failed-cell"}


# ---------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("train.tokens: 512", "train.tokens: -1", r"states.yaml:3:\d+: set.train.tokens: cell 'low' and 1 more: "),
        ("lr: 0.01}", "lr: -1}", r"states.yaml:7:\d+: axes.rate.high.train.optimizer: cell 'high'"),
        ("seeds: [0, 1]", "rungs: [512]", r"states.yaml:8:\d+: rungs"),
        ("seeds: [0, 1]", "phases: {short: {tokens: 512}}", r"states.yaml:8:\d+: phases.short.tokens: .* not shorter"),
        ("lr: 0.01}", "lr: 0.001}", r"states.yaml:\d+:\d+: axes: cells 'low' and 'high' are equal"),
        ("seeds: [0, 1]", "objectives: {bytes.fp4: minimize}", r"objectives.bytes.fp4: cell 'low' has no figure"),
    ],
)  # fmt: skip
def test_a_dry_run_names_the_place_in_the_sweep_file(sweep_file, old, new, where):
    change(sweep_file, old, new)
    with pytest.raises(ProblemError, match=where):
        sweep(sweep_file, "--dry-run")


def test_the_balance_of_experts_is_no_objective_of_a_dense_model(sweep_file):
    change(sweep_file, "seeds: [0, 1]", "objectives: {max_violation: minimize}")
    load_sweep(sweep_file, Registry.discover())
    dense = "model.first_k_dense_replace: 3, model.n_routed_experts: 0"
    change(sweep_file, "train.tokens: 512", f"train.tokens: 512, {dense}")
    with pytest.raises(ProblemError, match="is dense"):
        load_sweep(sweep_file, Registry.discover())
