"""Whatever breaks, a run stops with an error that says what is not lost, and loses nothing; or it goes on."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crash import MICRO_BATCHES, differences, kill_and_resume, outcome

from penstock.hooks.problems import ExitCode, ProblemError
from penstock.run.directory import RunDirectory
from penstock.train.checkpoint import verify_checkpoint

STOP_AFTER_3 = [("_forward", 3 * MICRO_BATCHES, signal.SIGTERM)]


def only_run(folder: Path) -> Path:
    (run,) = folder.glob("runs/tiny/2*")
    return run


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


# ---------------------------------------------------------------------------------------------- numbers


def test_a_diverged_run_keeps_its_last_good_checkpoint_and_goes_on_from_it(server, tiny, unkilled, tmp_path):
    arguments = ["train", tiny, "--runs", "runs", "--resume", "auto"]
    server.run(*arguments, cwd=tmp_path, signals=STOP_AFTER_3)
    drift = "--allow-config-drift"
    diverged = server.run(*arguments, "train.optimizer={use: muon, lr: 1e30}", drift, cwd=tmp_path)
    assert diverged.status == ExitCode.FAILED
    assert "became nan at step" in diverged.said or "became inf at step" in diverged.said
    assert "the last good checkpoint is" in diverged.said
    assert "step-00000003" in diverged.said
    assert "Traceback" not in diverged.said
    status = json.loads((only_run(tmp_path) / "status.json").read_text())
    assert status["state"] == "failed"
    assert "became" in status["message"]
    # with the learning rate that it had, the run is the one that nothing happened to
    mended = server.run(*arguments, drift, cwd=tmp_path)
    assert mended.status == 0, mended.said
    assert differences(outcome(only_run(tmp_path)), outcome(unkilled.run)) == []


# ---------------------------------------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of memory and remounts it with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        again = f"remount,{options}" if place.is_mount() else options
        subprocess.run(["mount", "-t", "tmpfs", "-o", again, "tmpfs", str(place)], check=True, capture_output=True)
        return place

    try:
        mount("size=1m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a file system is not allowed here ({error})")
    yield mount
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("share", [0.02, 0.25, 0.45, 0.6, 0.75, 0.9])
def test_a_full_disk_is_an_error_and_with_more_space_the_run_goes_on(server, tiny, unkilled, disk, share):
    needed = sum(path.stat().st_size for path in unkilled.run.parents[1].rglob("*"))
    folder = disk(f"size={int(share * needed)}")
    arguments = ["train", tiny, "--runs", "runs", "--resume", "auto"]
    full = server.run(*arguments, cwd=folder)
    assert full.status == ExitCode.FAILED or (full.status == ExitCode.USAGE and share < 0.2), full.said
    assert "No space left on device" in full.said
    assert "Traceback" not in full.said
    for checkpoint in folder.glob("runs/tiny/2*/checkpoints/step-*"):
        verify_checkpoint(checkpoint)
        assert "the last good checkpoint is" in full.said
    disk("size=64m")
    resumed = server.run(*arguments, cwd=folder)
    assert resumed.status == 0, resumed.said
    assert differences(outcome(only_run(folder)), outcome(unkilled.run)) == []


@pytest.mark.parametrize(("file", "limit"), [("metrics.jsonl", 1500), ("status.json", 300), ("engine.pt", 30_000)])
def test_a_file_that_cannot_grow_ends_the_run_with_its_last_good_checkpoint(
    server, tiny, unkilled, tmp_path, file, limit
):
    arguments = ["train", tiny, "--runs", "runs", "--resume", "auto"]
    server.run(*arguments, cwd=tmp_path, signals=STOP_AFTER_3)
    assert (unkilled.run / file).stat().st_size > limit if (unkilled.run / file).exists() else True
    stopped = server.run(*arguments, cwd=tmp_path, file_size=limit)
    assert stopped.status == ExitCode.FAILED
    assert "File too large" in stopped.said or "the checkpoint cannot be written" in stopped.said
    assert "step-00000003" in stopped.said
    assert "Traceback" not in stopped.said
    resumed = server.run(*arguments, cwd=tmp_path)
    assert resumed.status == 0, resumed.said
    assert differences(outcome(only_run(tmp_path)), outcome(unkilled.run)) == []


def test_a_disk_without_write_permission_is_named_before_any_work(server, tiny, disk):
    folder = disk("size=64m")
    server.run("train", tiny, "--runs", "runs", cwd=folder, signals=STOP_AFTER_3)
    disk("size=64m,ro")
    before = contents(folder)
    for resume in ([], ["--resume", "auto"], ["--resume", only_run(folder)]):
        refused = server.run("train", tiny, "--runs", "runs", *resume, cwd=folder)
        assert refused.status in (ExitCode.USAGE, ExitCode.FAILED)
        assert "Read-only file system" in refused.said
        assert "Traceback" not in refused.said
    refused = server.run("prepare", tiny, "data.seed=1", "--runs", "runs", cwd=folder)
    assert refused.status == ExitCode.FAILED
    assert "Read-only file system" in refused.said
    assert contents(folder) == before


# ---------------------------------------------------------------------------------------------- data


@pytest.fixture
def copy(unkilled, tmp_path) -> Path:
    """A folder with a copy of the unkilled run, whose last checkpoint is gone, and of its data, as if made there."""
    shutil.copytree(unkilled.run.parents[1], tmp_path / "runs")
    shutil.rmtree(only_run(tmp_path) / "checkpoints" / "step-00000006")
    record = json.loads((only_run(tmp_path) / "data.json").read_text())
    folder = str(tmp_path / "runs" / "data" / Path(record["folder"]).name)
    (only_run(tmp_path) / "data.json").write_text(json.dumps({**record, "folder": folder}))
    return tmp_path


def test_a_damaged_shard_stops_the_resume_and_harms_nothing(command, tiny, unkilled, copy):
    (shard,) = copy.glob("runs/data/*/train-00000.bin")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    run = only_run(copy)
    before = contents(run)
    with pytest.raises(ProblemError, match=r"train-00000\.bin: its SHA-256 differs from the manifest's"):
        command("train", tiny, "--runs", copy / "runs", "--resume", run)
    assert contents(run) == before
    shard.write_bytes(whole)
    command("train", tiny, "--runs", copy / "runs", "--resume", run)
    assert differences(outcome(run), outcome(unkilled.run)) == []


def test_a_checkpoint_of_another_tokenizer_is_refused(command, tiny, workplace, copy):
    text = workplace / "corpus" / "00.txt"
    original, times = text.read_bytes(), text.stat()
    run = only_run(copy)
    for folder in copy.glob("runs/data/*"):
        shutil.rmtree(folder)
    try:
        text.write_text("another text, other pairs of letters: zzyzzyzzy\n" * 400)
        before = contents(run)
        with pytest.raises(ProblemError, match="trained with a different tokenizer than the data's"):
            command("train", tiny, "--runs", copy / "runs", "--resume", run)
        assert {path: data for path, data in contents(run).items() if path.name != "stages.json"} == {
            path: data for path, data in before.items() if path.name != "stages.json"
        }
        with pytest.raises(ProblemError, match="the data of this run was not found"):
            command("evaluate", run)
    finally:
        text.write_bytes(original)
        os.utime(text, ns=(times.st_atime_ns, times.st_mtime_ns))  # by which prepared data knows its text


def test_data_that_was_prepared_anew_from_the_same_text_is_the_same(command, tiny, unkilled, copy):
    for folder in copy.glob("runs/data/*"):
        shutil.rmtree(folder)
    command("train", tiny, "--runs", copy / "runs", "--resume", only_run(copy))
    assert differences(outcome(only_run(copy)), outcome(unkilled.run)) == []


# ---------------------------------------------------------------------------------------------- clocks, company


@pytest.mark.parametrize("day", [86_400, -86_400])
def test_a_clock_that_jumps_changes_nothing(server, tiny, unkilled, tmp_path, day):
    life = kill_and_resume(server, tiny, tmp_path, clock=day, at={"stage": "write_checkpoint", "nth": 2, "delay": 0.01})
    assert life.resumed.status == 0, life.resumed.said
    assert differences(outcome(life.run), outcome(unkilled.run)) == []
    rows = [json.loads(line) for line in (life.run / "metrics.jsonl").read_text().splitlines()]
    clocks = [row for row in rows if "elapsed" in row]
    assert all(row["tokens_per_second"] > 0 for row in clocks)
    assert all(one["elapsed"] < two["elapsed"] for one, two in itertools.pairwise(clocks))
    assert json.loads((life.run / "stages.json").read_text())["train"] > 0


def test_a_second_process_on_a_run_is_refused_and_the_first_unharmed(server, tiny, copy):
    run = only_run(copy)
    with RunDirectory.open(run).lock():
        before = contents(run)
        second = server.run("train", tiny, "--runs", "runs", "--resume", run, cwd=copy)
        assert contents(run) == before
    assert second.status == ExitCode.USAGE
    assert "another process is writing to this run" in second.said
