"""A run whose checkpoints are written beside training ends like one that waits for them, wherever it is killed."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from crash import MICRO_BATCHES, differences, kill_and_resume, outcome

from penstock.cli.main import run as run_command
from penstock.hooks import Registry
from penstock.hooks.problems import ExitCode, ProblemError
from penstock.run.config import load_run_config
from penstock.train.checkpoint import verify_checkpoint
from penstock.train.checks import Planned

KILLED = -signal.SIGKILL
STOP_AFTER_3 = [("_forward", 3 * MICRO_BATCHES, signal.SIGTERM)]


@pytest.fixture(scope="module")
def beside(tiny: Path) -> Path:
    """The config of the runs that are killed, with checkpoints beside training."""
    path = tiny.with_name("beside.yaml")
    path.write_text(
        tiny.read_text().replace("checkpoint_every: 2\n", "checkpoint_every: 2\n  checkpoint_async: true\n")
    )
    return path


def only_run(folder: Path) -> Path:
    (run,) = folder.glob("runs/tiny/2*")
    return run


def assert_whole(run: Path, *steps: int) -> None:
    checkpoints = run / "checkpoints"
    names = [f"step-{step:08d}" for step in steps]
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", *names]
    assert [verify_checkpoint(checkpoints / name).step for name in names] == list(steps)
    assert (checkpoints / "latest").read_text().strip() == names[-1]


def test_it_ends_with_the_checkpoints_of_a_run_that_waits(server, tiny, beside, tmp_path):
    keep = "train.keep_checkpoints=5"
    for config, name in ((tiny, "waits"), (beside, "beside")):
        (tmp_path / name).mkdir()
        done = server.run("train", config, "--runs", "runs", keep, cwd=tmp_path / name)
        assert done.status == 0, done.said
    assert " kB of memory" in done.said
    for step in (2, 4, 6):
        one, two = (outcome_at(only_run(tmp_path / name), step) for name in ("waits", "beside"))
        assert differences(one, two) == []
    assert_whole(only_run(tmp_path / "beside"), 2, 4, 6)


def outcome_at(run: Path, step: int) -> dict:
    """As `outcome`, from a checkpoint of some step."""
    import torch

    latest = run / "checkpoints" / "latest"
    latest.write_text(f"step-{step:08d}\n")
    found = outcome(run)
    latest.write_text("step-00000006\n")
    trainer = torch.load(run / "checkpoints" / f"step-{step:08d}" / "trainer.pt")
    return {**found, "trainer": {name: value for name, value in trainer.items() if name != "elapsed"}}


def test_every_write_point_of_one_beside_training_may_be_the_last(server, beside, unkilled, tmp_path):
    server.run(
        "train", beside, "--runs", "runs", "--resume", "auto", cwd=folder(tmp_path / "begun"), signals=STOP_AFTER_3
    )
    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    events = kill_and_resume(server, beside, tmp_path / "whole").killed.events
    first = next(number for number, event in enumerate(events) if "/.step-00000004." in event)
    last = next(number for number, event in enumerate(events) if "/.step-00000006." in event)
    assert any(event.startswith("rename") and event.endswith("step-00000004") for event in events[first:last])
    for event in range(first, last, 8):
        life = kill_and_resume(server, beside, shutil.copytree(tmp_path / "begun", tmp_path / str(event)), event=event)
        assert life.killed.status == KILLED
        assert life.resumed.status == 0, life.resumed.said
        assert differences(outcome(life.run), outcome(unkilled.run)) == []
        assert_whole(life.run, 4, 6)


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_signal_waits_for_what_is_being_written_and_writes_its_own(server, beside, unkilled, tmp_path):
    life = kill_and_resume(server, beside, tmp_path, signals=[("_forward", 2 * MICRO_BATCHES + 1, signal.SIGTERM)])
    assert life.killed.status == ExitCode.INTERRUPTED
    assert "from step 3 of 6" in life.resumed.said
    assert differences(outcome(life.run), outcome(unkilled.run)) == []


def test_a_file_that_cannot_grow_ends_the_run_with_its_last_good_checkpoint(server, beside, unkilled, tmp_path):
    arguments = ["train", beside, "--runs", "runs", "--resume", "auto"]
    server.run(*arguments, cwd=tmp_path, signals=STOP_AFTER_3)
    stopped = server.run(*arguments, cwd=tmp_path, file_size=30_000)
    assert stopped.status == ExitCode.FAILED
    assert "the checkpoint cannot be written (File too large)" in stopped.said
    assert "the last good checkpoint is" in stopped.said
    assert "Traceback" not in stopped.said
    assert_whole(only_run(tmp_path), 2, 3)
    resumed = server.run(*arguments, cwd=tmp_path)
    assert resumed.status == 0, resumed.said
    assert differences(outcome(only_run(tmp_path)), outcome(unkilled.run)) == []


def test_a_step_that_diverges_takes_the_checkpoint_before_it_along(server, beside, tmp_path):
    arguments = ["train", beside, "--runs", "runs", "--resume", "auto", "train.checkpoint_every=1"]
    server.run(*arguments, cwd=tmp_path, signals=STOP_AFTER_3)
    diverging = ["train.optimizer={use: muon, lr: 1e30}", "--allow-config-drift"]
    diverged = server.run(*arguments, *diverging, cwd=tmp_path)
    assert diverged.status == ExitCode.FAILED
    assert "became" in diverged.said
    assert "Traceback" not in diverged.said
    assert_whole(only_run(tmp_path), 2, 3)


ALONE = """
from penstock.hooks import Component, hookimpl
from penstock.train.engines.local import LocalEngine


@hookimpl
def engines():
    return [Component("engine", "alone", "penstock.train.engines.local:LocalEngine", "Copies nothing", contract=2)]
"""


def test_an_engine_that_cannot_copy_is_refused_by_name(beside, tmp_path):
    (tmp_path / "alone.py").write_text(ALONE)
    with pytest.raises(ProblemError, match="the engine 'alone' cannot copy its state"):
        run_command(["--plugin", str(tmp_path / "alone.py"), "config", "validate", str(beside), "train.engine=alone"])


@pytest.mark.parametrize(
    ("launcher", "share"),
    [({}, 1.0), ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, 0.5), ({"WORLD_SIZE": "4"}, 1.0)],
)
def test_of_copies_that_are_cut_those_of_this_machine_count(beside, tmp_path, launcher, share, monkeypatch):
    """A launcher that does not say how many ranks are here may have started all of them here."""
    config, _ = load_run_config(beside, ["train.engine=fsdp2"], Registry.discover())
    whole = Planned(config, tmp_path).copied_bytes
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    assert Planned(config, tmp_path).copied_bytes == round(share * whole)


def test_a_copy_that_does_not_fit_is_refused_before_a_run_is_made(beside, tmp_path, monkeypatch):
    from penstock.train import checks

    monkeypatch.setattr(checks, "available_memory", lambda: 1000)
    with pytest.raises(ProblemError, match="checkpoint_async: writing checkpoints beside training takes"):
        run_command(["train", str(beside), "--runs", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
