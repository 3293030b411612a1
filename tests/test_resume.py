"""A run that is stopped anywhere and continued ends with the bits of the run that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from crash import MICRO_BATCHES, STEPS, Life, differences, kill_and_resume, kill_points, outcome

from penstock.cli.main import run as run_command
from penstock.hooks import KINDS, Component, Registry
from penstock.hooks.contracts import SharingPlan
from penstock.hooks.discovery import Loaded, Origin, discover
from penstock.hooks.problems import ExitCode, ProblemError
from penstock.train.checkpoint import sha256, verify_checkpoint

KILLED = -signal.SIGKILL
OLD_KINDS = KINDS.keys() - {"engine", "objective"}


def assert_whole(run: Path) -> None:
    """Everything that a reader would find is what was written, and nothing lies beside it."""
    checkpoints = run / "checkpoints"
    for path in checkpoints.glob("step-*"):
        verify_checkpoint(path)
    assert (checkpoints / (checkpoints / "latest").read_text().strip()).is_dir()
    assert [path for path in run.rglob(".*") if path.name != ".lock"] == []


def assert_unkilled(life: Life, unkilled: Life) -> None:
    assert life.resumed.status == 0 or life.resumed is life.killed, life.resumed.said
    assert differences(outcome(life.run), outcome(unkilled.run)) == [], life.killed
    if life.resumed.status == 0:  # not killed when all was done but for the last note of how long it took
        assert_whole(life.run)


# ---------------------------------------------------------------------------------------------- kills


def test_a_killed_process_resumes_in_another_bit_equal(trained, config_file, tmp_path):
    arguments = [sys.executable, "-m", "penstock.cli", "train", str(config_file), "--runs", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("quickstart/2*/checkpoints/latest")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    (run,) = tmp_path.glob("quickstart/2*")
    assert json.loads((run / "status.json").read_text())["state"] == "running"
    arguments[4:5] = [str(run / "config.resolved.yaml"), "--resume", str(run)]
    resumed = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert resumed.returncode == 0, resumed.stderr
    assert differences(outcome(run), outcome(trained)) == []


def test_thirty_random_kills_resume_bit_equal(server, tiny, unkilled, tmp_path):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    points = kill_points(random.Random(seed), unkilled.killed.seconds)
    hit: list[str] = []
    while len(hit) < 30:
        life = kill_and_resume(server, tiny, tmp_path / "life", at=next(points))
        assert_unkilled(life, unkilled)
        if life.killed.status == KILLED:  # else it ended before
            hit.append(life.killed.stage)
        shutil.rmtree(tmp_path / "life")
    assert len(set(hit)) >= 6, hit


def test_killed_again_and_again_it_ends_bit_equal(server, tiny, unkilled, tmp_path):
    command = ["train", tiny, "--runs", "runs", "--resume", "auto"]
    kills = 0
    while (ended := server.run(*command, cwd=tmp_path, event=70 + 5 * kills)).status == KILLED:
        kills += 1
    assert ended.status == 0, ended.said
    assert kills >= 2
    (run,) = tmp_path.glob("runs/tiny/2*")
    assert differences(outcome(run), outcome(unkilled.run)) == []


def test_every_write_point_of_a_checkpoint_may_be_the_last(server, tiny, unkilled, tmp_path):
    interrupted(server, tiny, tmp_path / "begun", after=5)
    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    events = kill_and_resume(server, tiny, tmp_path / "whole").killed.events
    first = next(number for number, event in enumerate(events) if "/.step-00000006." in event)
    kinds = {"mkdir", "write", "fsync", "rename", "remove", "rmdir"}
    assert {event.split()[0] for event in events[first:]} == kinds
    for event in range(first, len(events)):
        folder = shutil.copytree(tmp_path / "begun", tmp_path / str(event))
        life = kill_and_resume(server, tiny, folder, event=event)
        assert (life.killed.status, len(life.killed.events)) == (KILLED, event)
        assert_unkilled(life, unkilled)


@pytest.mark.parametrize("file", ["model.safetensors", "engine.pt"])
def test_a_process_that_dies_within_a_write_of_a_library_loses_nothing(server, tiny, unkilled, tmp_path, file):
    size = (unkilled.run / "checkpoints" / f"step-{STEPS:08d}" / file).stat().st_size
    life = kill_and_resume(server, tiny, tmp_path, file_size=size - 100, fatal=True)
    assert life.killed.status == -signal.SIGXFSZ
    assert_unkilled(life, unkilled)


def test_every_write_point_of_prepare_may_be_the_last(server, tiny, unkilled, tmp_path):
    (whole,) = (unkilled.run.parents[1] / "data").iterdir()
    expected = {path.name: path.read_bytes() for path in whole.iterdir()}
    events = server.run("prepare", tiny, "--runs", "runs", cwd=tmp_path / "..").events
    for event in range(len(events)):
        folder = tmp_path / str(event)
        folder.mkdir()
        assert server.run("prepare", tiny, "--runs", "runs", cwd=folder, event=event).status == KILLED
        assert server.run("prepare", tiny, "--runs", "runs", cwd=folder).status == 0
        (data,) = (folder / "runs" / "data").glob("[!.]*")
        assert {path.name: path.read_bytes() for path in data.iterdir()} == expected


# ---------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_the_step_and_writes_a_checkpoint(server, tiny, unkilled, tmp_path, number):
    life = kill_and_resume(server, tiny, tmp_path, signals=[("_forward", 2 * MICRO_BATCHES + 2, number)])
    assert life.killed.status == ExitCode.INTERRUPTED
    assert "stopping after this step" in life.killed.said
    assert "from step 3 of 6" in life.resumed.said
    assert_unkilled(life, unkilled)


def test_the_second_signal_stops_at_once_and_loses_no_checkpoint(server, tiny, unkilled, tmp_path):
    call = 4 * MICRO_BATCHES + 2
    twice = [("_forward", call, signal.SIGTERM), ("backward", call, signal.SIGTERM)]
    life = kill_and_resume(server, tiny, tmp_path, signals=twice)
    assert life.killed.status == ExitCode.INTERRUPTED
    assert "from step 4 of 6" in life.resumed.said
    assert_unkilled(life, unkilled)


def test_a_signal_during_prepare_clears_what_was_half_done(server, tiny, unkilled, tmp_path):
    life = kill_and_resume(server, tiny, tmp_path, signals=[("_encode", 1, signal.SIGTERM)])
    assert life.killed.status == ExitCode.INTERRUPTED
    assert not [event for event in life.killed.events if event.startswith("rename") and "/data/" in event]
    assert any(event.startswith("rmdir") and event.endswith(".partial") for event in life.killed.events)
    assert_unkilled(life, unkilled)


# ---------------------------------------------------------------------------------------------- damage


@pytest.fixture
def copy(unkilled, tmp_path) -> Path:
    """A copy of the unkilled run, beside a copy of its data."""
    shutil.copytree(unkilled.run.parents[1], tmp_path / "runs")
    return tmp_path / "runs" / unkilled.run.parent.name / unkilled.run.name


def resume(command, tiny: Path, run: Path, *more: object):
    return command("train", tiny, "--runs", run.parents[1], "--resume", run, *more)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("file", "damage"), [("model.safetensors", flip), ("trainer.pt", cut), ("engine.pt", cut)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_continued(
    capsys, command, tiny, unkilled, copy, file, damage
):
    damage(copy / "checkpoints" / "step-00000006" / file)
    resume(command, tiny, copy)
    said = capsys.readouterr().err
    assert f"step-00000006: damaged files: {file}" in said
    assert "from step 4 of 6" in said
    assert differences(outcome(copy), outcome(unkilled.run)) == []
    assert_whole(copy)


def test_a_run_of_before_there_were_engines_and_objectives_goes_on(command, tiny, unkilled, copy):
    shutil.rmtree(copy / "checkpoints" / "step-00000006")
    folder = copy / "checkpoints" / "step-00000004"
    torch.save(torch.load(folder / "trainer.pt") | {"engine": torch.load(folder / "engine.pt")}, folder / "trainer.pt")
    (folder / "engine.pt").unlink()
    for lock in (copy / "plugins.lock.json", folder / "plugins.lock.json"):
        components = [each for each in json.loads(lock.read_text())["components"] if each["kind"] in OLD_KINDS]
        lock.write_text(json.dumps({"components": components}))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = {name: sha256(folder / name) for name in manifest["sha256"] if name != "engine.pt"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    resolved = yaml.safe_load((copy / "config.resolved.yaml").read_text())
    del resolved["train"]["engine"], resolved["train"]["objective"]
    (copy / "config.resolved.yaml").write_text(yaml.safe_dump(resolved))
    resume(command, tiny, copy)
    assert recorded(copy)["config"] == {}
    assert differences(outcome(copy), outcome(unkilled.run)) == []


def test_where_all_checkpoints_are_damaged_nothing_is_begun_anew(command, tiny, copy):
    for path in (copy / "checkpoints").glob("step-*/trainer.pt"):
        cut(path)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(ProblemError, match=r"all checkpoints are damaged \(step-00000004, step-00000006\)"):
        resume(command, tiny, copy)
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_damaged_checkpoint_of_a_later_step_costs_no_good_one(command, tiny, copy):
    flip(copy / "checkpoints" / "step-00000006" / "trainer.pt")
    resume(command, tiny, copy, "train.checkpoint_every=1", "train.keep_checkpoints=1")
    assert [path.name for path in (copy / "checkpoints").glob("step-*")] == ["step-00000006"]
    assert_whole(copy)


# ---------------------------------------------------------------------------------------------- changes


def recorded(run: Path) -> dict:
    """The last line of `resumes.jsonl`."""
    return json.loads((run / "resumes.jsonl").read_text().splitlines()[-1])


def interrupted(server, tiny: Path, folder: Path, after: int = 3) -> Path:
    """A run of `tiny` that was stopped after a step."""
    folder.mkdir(exist_ok=True)
    signals = [("_forward", after * MICRO_BATCHES, signal.SIGTERM)]
    assert server.run("train", tiny, "--runs", "runs", cwd=folder, signals=signals).status == ExitCode.INTERRUPTED
    (run,) = folder.glob("runs/tiny/2*")
    return run


def test_free_settings_change_on_resume_and_are_written_down(capsys, server, command, tiny, unkilled, tmp_path):
    run = interrupted(server, tiny, tmp_path)
    free = ["train.micro_batch_size=2", "train.evaluate_every=null", "evaluate.sample_tokens=9"]
    command("train", tiny, *free, "--runs", tmp_path / "runs", "--resume", "auto")
    said = capsys.readouterr().err
    assert "changed: train.micro_batch_size: was 1, is 2" in said
    assert "balance loss switch-loss sees one micro-batch at a time" in said
    line = recorded(run)
    assert line["step"] == 3
    assert line["config"] == {
        "evaluate.sample_tokens": [None, 9],  # the config of the run has no section evaluate
        "train.evaluate_every": [2, None],
        "train.micro_batch_size": [1, 2],
    }
    assert "micro_batch_size: 2" in (run / "config.resolved.yaml").read_text()
    # switch-loss aside, which weighs a thousandth here, the losses are those of the other split
    losses, expected = (
        [row["loss"] for row in outcome(each)["metrics"] if "loss" in row] for each in (run, unkilled.run)
    )
    assert losses == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.tokens=768", r"train\.tokens: was 384, is 768.*--allow-config-drift"),
        ("train.batch_size=8", r"train\.batch_size: was 4, is 8.*a checkpoint cannot be continued"),
        ("data.sequence_length=8", r"data\.sequence_length: was 16, is 8.*a checkpoint cannot be continued"),
        ("seed=1", r"seed: was 0, is 1.*a checkpoint cannot be continued"),
        ("train.optimizer={use: adamw}", r"train\.optimizer\.use: was .*muon, is .*adamw.*a checkpoint cannot"),
    ],
)
def test_resume_refuses_another_config_and_says_what_differs(command, tiny, copy, change, said):
    with pytest.raises(ProblemError, match=said):
        resume(command, tiny, copy, change)


@pytest.mark.parametrize("change", ["train.batch_size=8", "data.sequence_length=8", "train.optimizer={use: adamw}"])
def test_what_no_checkpoint_can_be_continued_with_is_refused_whatever_the_user_allows(command, tiny, copy, change):
    with pytest.raises(ProblemError, match="a checkpoint cannot be continued"):
        resume(command, tiny, copy, change, "--allow-config-drift")
    assert not (copy / "resumes.jsonl").exists()


def test_a_model_of_other_shapes_is_refused_before_anything_is_written(command, tiny, copy):
    before = (copy / "config.resolved.yaml").read_text()
    with pytest.raises(ProblemError, match="does not fit the model and optimizer") as error:
        resume(command, tiny, copy, "model.hidden_size=32", "--allow-config-drift")
    assert "undo the change" in str(error.value)
    assert (copy / "config.resolved.yaml").read_text() == before
    assert not (copy / "resumes.jsonl").exists()


def test_allowed_drift_takes_effect_and_is_written_down(capsys, server, command, tiny, tmp_path):
    run = interrupted(server, tiny, tmp_path)
    rate = "train.optimizer={use: muon, lr: 0.001}"
    command("train", tiny, rate, "--runs", tmp_path / "runs", "--resume", "auto", "--allow-config-drift")
    assert "continuing despite a change: train.optimizer.lr: was 0.02, is 0.001" in capsys.readouterr().err
    assert recorded(run)["config"]["train.optimizer.lr"] == [0.02, 0.001]
    rows = [row for row in outcome(run)["metrics"] if "learning_rate" in row]
    assert rows[3]["learning_rate"] == pytest.approx(0.001 * rows[3]["learning_rate_factor"])
    assert rows[2]["learning_rate"] > 0.01


def test_other_code_of_a_component_is_refused_unless_allowed(capsys, command, tiny, unkilled, copy, read_json):
    lock = read_json(copy / "plugins.lock.json")
    for component in lock["components"]:
        if component["kind"] == "router":
            component["hash"] = "0" * 64
    (copy / "plugins.lock.json").write_text(json.dumps(lock))
    shutil.rmtree(copy / "checkpoints" / "step-00000006")
    with pytest.raises(ProblemError, match=r"router .*sigmoid-topk .* is not the code.*--allow-plugin-drift"):
        resume(command, tiny, copy)
    resume(command, tiny, copy, "--allow-plugin-drift")
    assert "is not the code of the run" in capsys.readouterr().err
    assert "sigmoid-topk" in recorded(copy)["plugins"][0]
    resume(command, tiny, copy)


def test_another_machine_is_said_and_written_down(capsys, command, tiny, copy, read_json):
    environment = read_json(copy / "environment.json")
    assert environment["threads"] == 1
    (copy / "environment.json").write_text(json.dumps({**environment, "threads": 99}))
    shutil.rmtree(copy / "checkpoints" / "step-00000006")
    resume(command, tiny, copy)
    warning = "the result may not be bit-identical to an uninterrupted run: threads: was 99, is 1"
    assert warning in capsys.readouterr().err
    assert recorded(copy)["machine"] == {"threads": [99, 1]}


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(server, tiny, unkilled, tmp_path):
    other = server.run("train", tiny, "seed=1", "--runs", "runs", cwd=tmp_path)
    assert other.status == 0
    (run,) = tmp_path.glob("runs/tiny/2*")
    assert differences(outcome(run)["metrics"], outcome(unkilled.run)["metrics"]) != []


def test_micro_batches_do_not_change_the_step_beyond_rounding(command, config_file, tmp_path):
    # The Switch loss of a micro-batch is a different loss by design, so it is left out here.
    plain = ["model.balance=[{use: loss-free, rate: 0.01}]", "train.tokens=512"]
    losses = []
    for size in (4, 2, 1):
        arguments = [*plain, f"train.micro_batch_size={size}", "--runs", tmp_path / str(size)]
        run = Path(command("train", config_file, *arguments)["run_dir"])
        losses.append([row["loss"] for row in outcome(run)["metrics"] if "loss" in row])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


# ---------------------------------------------------------------------------------------------- sharing


class TiedAcrossDepth:
    """A strategy of a third party: the attention output and the experts of both layers are one tensor each."""

    def plan(self, roles, shapes) -> SharingPlan:
        names = ["self_attn.o_proj.weight", "mlp.experts.gate_up_proj"]
        return SharingPlan(groups=tuple((f"layers.1.{name}", f"layers.2.{name}") for name in names))


def test_what_any_strategy_shares_is_stored_once_and_resumes_bit_equal(workplace, config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace)
    component = Component("sharing", "tied-depth", f"{__name__}:TiedAcrossDepth", "")
    registry = Registry([*discover(), Loaded(Origin("acme", "1", "acme"), (component,))])
    arguments = ["train", str(config_file), "model.sharing=[tied-depth]", "--runs", str(tmp_path)]
    run = Path(run_command(arguments, registry)["run_dir"])
    expected = outcome(run)
    stored = expected["weights"]["model.safetensors"]
    assert "model.layers.1.self_attn.o_proj.weight" in stored
    assert "model.layers.2.self_attn.o_proj.weight" not in stored
    assert "model.layers.1.mlp.experts.3.up_proj.weight" in stored
    assert "model.layers.2.mlp.experts.3.up_proj.weight" not in stored
    newest = run / "checkpoints" / expected["step"]
    shutil.rmtree(newest)
    run_command([*arguments, "--resume", str(run)], registry)
    assert differences(outcome(run), expected) == []


def test_examples_that_changed_are_named_as_the_objectives_and_not_as_prepared_data(command, tiny, tmp_path):
    for name in ("rows", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "water opens the gate"}\n' * 4)
    files = f"paths: [{tmp_path}/rows.jsonl], heldout: [{tmp_path}/heldout.jsonl]"
    command(
        "train",
        tiny,
        f"train.objective={{use: masked-next-token, {files}}}",
        "train.tokens=64",
        "--runs",
        tmp_path / "runs",
    )
    (run,) = (tmp_path / "runs").glob("*/2*")
    (tmp_path / "rows.jsonl").write_text('{"text": "the gate is closed"}\n' * 4)
    with pytest.raises(ProblemError, match=r"train\.objective: the data differs.*\(train/.*rows\.jsonl\)"):
        command("train", run / "config.resolved.yaml", "--resume", run, "--runs", tmp_path / "runs")


def test_tokens_of_a_run_are_without_padding_before_and_after_it_is_continued(command, tiny, tmp_path):
    lines = [{"tokens": list(range(50, 50 + length)), "mask": [1] * length} for length in (3, 6, 3, 6)]
    for name in ("rows", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = f"paths: [{tmp_path}/rows.jsonl], heldout: [{tmp_path}/heldout.jsonl]"
    objective = f"train.objective={{use: masked-next-token, {files}}}"
    sizes = ["train.batch_size=4", "data.sequence_length=32", "train.tokens=384", "train.checkpoint_every=1"]
    arguments = ["train", tiny, objective, *sizes, "--runs", tmp_path / "runs"]
    each_step = 2 * (2 + 5)  # the last token of a line is read by nobody

    def told(run: Path) -> tuple[list[int], int]:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        tokens = [row["tokens"] for row in rows if "tokens" in row]
        return tokens, json.loads((run / "status.json").read_text())["tokens_seen"]

    trained = command(*arguments)
    (run,) = (tmp_path / "runs").glob("*/2*")
    assert told(run) == ([each_step, 2 * each_step, 3 * each_step], 3 * each_step)
    assert trained["train_tokens"] == 3 * each_step
    shutil.rmtree(run / "checkpoints" / "step-00000003")
    command(*arguments, "--resume", run)
    assert told(run) == ([each_step, 2 * each_step, 3 * each_step], 3 * each_step)


def test_heldout_lines_of_special_tokens_alone_have_a_loss_and_no_bits_per_byte(command, tiny, tmp_path):
    for name in ("rows", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text('{"tokens": [0, 0, 0], "mask": [1, 1, 1]}\n')
    files = f"paths: [{tmp_path}/rows.jsonl], heldout: [{tmp_path}/heldout.jsonl]"
    objective = f"train.objective={{use: masked-next-token, {files}}}"
    command("train", tiny, objective, "train.tokens=64", "--runs", tmp_path / "runs")
    (metrics,) = (tmp_path / "runs").glob("*/2*/metrics.jsonl")
    names = {name for row in metrics.read_text().splitlines() for name in json.loads(row)}
    assert "heldout/loss" in names
    assert "heldout/bits_per_byte" not in names


def test_a_finished_run_is_said_to_be_finished_and_keeps_its_figures(command, trained, config_file, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    result = command("train", config_file, "--resume", run, "--runs", tmp_path)
    printed = capsys.readouterr().out
    assert printed.startswith("already finished, nothing was trained now: trained 1,536 tokens in ")
    assert (result["already_finished"], result["train_tokens"], result["steps"]) == (True, 1536, 12)
    assert {path.name for path, content in before.items() if path.read_bytes() != content} == set()
