"""Two processes that train one run have every bit of one process with two micro-batches, and no rank waits for ever."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from crash import STEPS, CrashServer, Ended, differences, kill_rank_and_resume, outcome
from safetensors.torch import load_file

from penstock.cli.main import run as run_command
from penstock.conformance.ranks import told_by_ranks
from penstock.hooks import ExitCode, ProblemError, Registry
from penstock.hooks.registry import Choice

ROOT = Path(__file__).parents[1]
ENGINES = ["ddp", "fsdp2"]
LIMIT = 240  # seconds that ranks have: a hang is a failure
# Losses whose counts are summed over ranks before, while and after the step.
BALANCE = [
    "model.balance=[{use: loss-free, rate: 0.01}, {use: switch-loss, weight: 0.001}, "
    "{use: global-loss, weight: 0.1, counts: lagged}]",
    "model.balance=[{use: loss-free, rate: 0.01}, {use: global-loss, weight: 0.1}]",
]


Rank = Callable[..., Path]


@pytest.fixture
def train_as_ranks(server: CrashServer) -> Rank:
    """Trains on two ranks, of which rank 0 alone speaks; the run's folder."""

    def train(*arguments: object, cwd: Path, engine: str = "ddp") -> Path:
        first, second = server.run_ranks("train", *arguments, f"train.engine={engine}", cwd=cwd)
        assert (first.status, second.status) == (0, 0), first.said + second.said
        assert second.said == ""
        return cwd / first.said.rpartition("run: ")[2].strip()

    return train


def train_alone(*arguments: object, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(cwd)
    return cwd / run_command(["train", *map(str, arguments), "--json"])["run_dir"]


def test_two_ranks_train_the_quickstart_to_every_bit_of_one_process(workplace, tmp_path, monkeypatch):
    arguments = [
        ROOT / "configs" / "quickstart.yaml",
        f"data.corpus={{use: text, paths: [{workplace / 'corpus'}]}}",
        "data.heldout_share=0.3",
        "train.tokens=20480",
        "train.micro_batch_size=4",
    ]
    alone = train_alone(*arguments, "--runs", "alone", cwd=tmp_path, monkeypatch=monkeypatch)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command = [*torchrun, "--rdzv-endpoint", "localhost:0", "-m", "penstock.cli", "train", *map(str, arguments)]
    done = subprocess.run(
        [*command, "train.engine=ddp", "--runs", "ranks"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    (ranks,) = tmp_path.glob("ranks/quickstart/2*")
    assert json.loads((ranks / "status.json").read_text())["step"] == 10
    assert without_ranks(ranks) == without_ranks(alone)
    assert differences(result_of(ranks), result_of(alone)) == []


def result_of(run: Path) -> dict:
    found = outcome(run)
    for name in ("torch_rng_of_ranks", "cuda_rng_of_ranks"):
        found["engine"].pop(name, None)
    for row in found["metrics"]:  # a root of a sum over a rank's own micro-batches: equal but for rounding
        row.pop("balance/global-loss/gradient_error", None)
    return found


def without_ranks(run: Path) -> set[str]:
    """Files of a run, which other ranks than the first added none to but their logs."""
    files = {path.name for path in run.rglob("*") if path.is_file() and path.parent.name != "logs"}
    return {name for name in files if not name.startswith("events.out")}


@pytest.mark.parametrize("balance", BALANCE, ids=["lagged", "counts-first"])
def test_a_run_goes_on_with_other_ranks_and_engines_to_the_same_bits(
    tiny, train_as_ranks, balance, tmp_path, monkeypatch
):
    """Every step by another engine than the one before it, on one rank or two, has the bits of one process. Evaluations
    read three batches, which two ranks do not share evenly."""
    arguments = [tiny, balance, "model.router={use: sigmoid-topk, k: 2}", "train.micro_batch_size=2"]
    arguments += ["train.keep_checkpoints=9", "train.checkpoint_every=1", "train.evaluate_tokens=192"]
    whole = train_alone(*arguments, "--runs", "whole", cwd=tmp_path, monkeypatch=monkeypatch)
    ranks = train_as_ranks(*arguments, "--runs", "ranks", cwd=tmp_path)
    assert differences(result_of(ranks), result_of(whole)) == []
    run = Path(shutil.copytree(ranks, tmp_path / "mixed" / ranks.name))
    for step, engine in enumerate(["fsdp2", "local", "fsdp2", "ddp", "local"], 1):
        for later in range(step + 1, STEPS + 1):
            shutil.rmtree(run / "checkpoints" / f"step-{later:08d}")
        again = [*arguments, "--resume", run]
        if engine == "local":
            train_alone(*again, cwd=tmp_path, monkeypatch=monkeypatch)
        else:
            train_as_ranks(*again, cwd=tmp_path, engine=engine)
    assert differences(result_of(run), result_of(whole)) == []


def test_learned_thresholds_and_a_warm_up_have_the_same_bits_on_two_ranks(tiny, train_as_ranks, tmp_path, monkeypatch):
    """A threshold's gradient is averaged like a weight's, and all ranks are as far in the warm-up."""
    warm = "warmup: {tokens: 256, shape: sigmoid}, activations: int8"
    arguments = [
        tiny,
        f"model.quantizer={{weights: {{use: ternary-learned, {warm}}}, embedding: {{use: int8, {warm}}}, head: fp16}}",
        "model.sharing=[]",
        "train.micro_batch_size=2",
    ]
    ranks = train_as_ranks(*arguments, "--runs", "ranks", cwd=tmp_path)
    alone = train_alone(*arguments, "--runs", "alone", cwd=tmp_path, monkeypatch=monkeypatch)
    assert differences(result_of(ranks), result_of(alone)) == []
    kept = load_file(sorted(alone.glob("checkpoints/step-*"))[-1] / "added.safetensors")
    learned = [tensor for name, tensor in kept.items() if name.endswith("log_gain")]
    assert any(bool((each != each.flatten()[0]).any()) for each in learned)  # they were trained
    assert {float(tensor) for name, tensor in kept.items() if name.endswith(".share")} == {1.0}


def test_a_plan_that_is_learned_is_the_same_on_two_ranks(tiny, train_as_ranks, tmp_path, monkeypatch):
    """All ranks settle on it at the same step; a set of weights that no layer took has no gradient on any."""
    learned = "{use: learned-sharing, budget: 2, parts: [q, k, v, o], temperature: {until: 0.5}}"
    sharing = f"model.sharing=[{learned}, {{use: factorised-embedding, rank: 4}}]"
    arguments = [tiny, sharing, "model.num_hidden_layers=4", "train.micro_batch_size=2"]
    ranks = train_as_ranks(*arguments, "--runs", "ranks", cwd=tmp_path)
    alone = train_alone(*arguments, "--runs", "alone", cwd=tmp_path, monkeypatch=monkeypatch)
    assert differences(result_of(ranks), result_of(alone)) == []
    assert (ranks / "sharing.json").read_text() == (alone / "sharing.json").read_text()


def test_the_mean_is_over_the_counted_tokens_of_the_whole_step_whatever_the_cut(
    tiny, train_as_ranks, tmp_path, monkeypatch
):
    lines = [
        {"prompt": f"gate {number} opens " * (1 + number % 3), "completion": "water " * (1 + 5 * (number % 4 == 0))}
        for number in range(12)
    ]
    for name in ("rows.jsonl", "heldout.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    objective = "train.objective={use: masked-next-token, paths: [rows.jsonl], heldout: [heldout.jsonl]}"
    arguments = [tiny, objective, BALANCE[1], "model.router={use: sigmoid-topk, k: 2}", "data.sequence_length=32"]
    arguments += ["train.tokens=768"]
    ranks = train_as_ranks(*arguments, "train.micro_batch_size=2", "--runs", "ranks", cwd=tmp_path)
    alone = train_alone(
        *arguments, "train.micro_batch_size=2", "--runs", "alone", cwd=tmp_path, monkeypatch=monkeypatch
    )
    assert differences(result_of(ranks), result_of(alone)) == []
    cut = [
        train_alone(
            *arguments, f"train.micro_batch_size={size}", "--runs", "cut", cwd=tmp_path, monkeypatch=monkeypatch
        )
        for size in (1, 4)
    ]
    first, *others = (outcome(run)["metrics"][0] for run in (alone, *cut))
    for other in others:
        for name in ("loss", "gradient_norm", "balance/global-loss", "load/max_violation"):
            assert other[name] == pytest.approx(first[name], rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_signal_to_one_rank_stops_both_with_one_checkpoint(server, tiny, engine, tmp_path):
    arguments = ["train", tiny, "train.micro_batch_size=2", "train.checkpoint_every=100", f"train.engine={engine}"]
    ends = server.run_ranks(*arguments, cwd=tmp_path, faults={1: {"signals": [("_forward", 3, signal.SIGTERM)]}})
    assert [end.status for end in ends] == [ExitCode.INTERRUPTED] * 2
    (run,) = tmp_path.glob("runs/tiny/2*")
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000003"]


SCHEDULE = """
import os

from penstock.hooks import Component, hookimpl


class OfRank1:
    def __call__(self, progress):
        if progress > 0.5 and os.environ.get("RANK") == "1":
            {then}
        return 1.0


@hookimpl
def schedules():
    return [Component("schedule", "of-rank-1", f"{{__name__}}:OfRank1", "Differs on one rank")]
"""


def with_a_schedule_that(then: str, engine: str, server: CrashServer, tiny: Path, folder: Path) -> list[Ended]:
    """How ranks end whose rank 1 has a schedule of its own after step 3 of 6; there are checkpoints of steps 1 to 3."""
    (folder / "own.py").write_text(SCHEDULE.format(then=then))
    arguments = ["--plugin", "own.py", "train", tiny, "train.micro_batch_size=2", "train.checkpoint_every=1"]
    arguments += ["train.schedule=of-rank-1", f"train.engine={engine}"]
    ends = server.run_ranks(*arguments, cwd=folder)
    (run,) = folder.glob("runs/tiny/2*")
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert (run / "checkpoints" / "latest").read_text().strip() == "step-00000003"
    return ends


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_on_one_rank_ends_the_other_which_says_what_it_was(server, tiny, engine, tmp_path):
    first, second = with_a_schedule_that("raise ArithmeticError('no factor')", engine, server, tiny, tmp_path)
    assert (first.status, second.status) == (1, 70)  # a bug has a traceback, which the server's child prints
    assert "rank 0: another rank exited (rank 1: ArithmeticError: no factor)" in first.said
    assert "Traceback" not in first.said
    assert "ArithmeticError: no factor" in second.said


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_that_are_not_finite_on_one_rank_end_both_with_the_last_good_checkpoint(server, tiny, engine, tmp_path):
    first, second = with_a_schedule_that("return float('nan')", engine, server, tiny, tmp_path)
    assert (first.status, second.status) == (ExitCode.FAILED, ExitCode.FAILED)
    assert "became nan on rank 1 at step" in first.said
    assert "the last good checkpoint is" in first.said
    assert "Traceback" not in first.said + second.said


def test_ranks_with_other_configs_do_not_begin(server, tiny, tmp_path):
    first, second = server.run_ranks("train", tiny, "train.engine=ddp", cwd=tmp_path, own=[(), ["seed=1"]])
    assert (first.status, second.status) == (ExitCode.USAGE, ExitCode.USAGE)
    assert "rank 1: seed: has 1, rank 0 has 0" in first.said
    assert second.said == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_rank_ends_the_other_and_two_resume_to_the_bits_of_the_unbroken_run(server, tiny, engine, tmp_path):
    """One kill within a save, the other anywhere, each of another rank. `benchmarks/kills.py --ranks 2` has more."""
    settings = [f"train.engine={engine}", "data.seed=7"]
    unkilled = kill_rank_and_resume(server, tiny, tmp_path / "unkilled", *settings)
    assert [end.status for end in (unkilled.killed, *unkilled.others)] == [0, 0], unkilled.killed.said
    generator = random.SystemRandom()
    rank, anywhere = generator.randrange(2), generator.uniform(0.2, 0.8) * unkilled.killed.seconds
    save = {"stage": "write_checkpoint", "nth": generator.randint(1, 3), "delay": generator.uniform(0, 0.02)}
    for number, (killed, at) in enumerate([(rank, save), (1 - rank, {"seconds": anywhere})]):
        life = kill_rank_and_resume(server, tiny, tmp_path / str(number), *settings, rank=killed, at=at)
        assert life.killed.status in (-signal.SIGKILL, 0), (killed, at)
        for other in life.others:
            assert other.status in (0, ExitCode.FAILED), (killed, at, other.said)
        assert life.resumed.status in (0, -signal.SIGKILL), (killed, at, life.resumed.said)
        assert differences(outcome(life.run), outcome(unkilled.run)) == [], (killed, at)


def test_a_disk_that_is_full_for_one_rank_ends_both_beside_training(server, tiny, tmp_path):
    settings = ["train.engine=fsdp2", "train.checkpoint_async=true", "train.checkpoint_every=1"]
    arguments = ["train", tiny, *settings, "train.micro_batch_size=2"]
    first, second = server.run_ranks(*arguments, cwd=tmp_path, faults={1: {"file_size": 1000}})
    assert (first.status, second.status) == (ExitCode.FAILED, ExitCode.FAILED)
    assert "the checkpoint cannot be written (rank 1: " in first.said
    assert "File too large" in first.said
    assert "there is no earlier checkpoint" in first.said
    assert second.said == ""
    (run,) = tmp_path.glob("runs/tiny/2*")
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert list((run / "checkpoints").glob("step-*")) == []


def refused_in_a_folder_of_its_own(choice: Choice, config: Path, folder: Path) -> str:
    own = folder / os.environ["RANK"]
    own.mkdir()
    os.chdir(own)
    with pytest.raises(ProblemError) as raised:
        run_command(["train", str(config), "train.engine=ddp"])
    return str(raised.value)


def test_a_rank_that_does_not_see_the_run_is_found_before_it_trains(tiny, tmp_path):
    refused = partial(refused_in_a_folder_of_its_own, config=tiny, folder=tmp_path)
    first, second = told_by_ranks(refused, Registry.discover().choose("engine", "ddp"), 2, LIMIT)
    assert first.startswith("rank 1: runs/tiny/")
    assert first.endswith("the run's folder is not there, give --runs a folder that all machines share")
    assert second == ""


def test_several_processes_of_one_engine_do_not_train_the_same_run_twice(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProblemError, match="2 processes were started, but engine 'local' uses 1"):
        run_command(["train", str(tiny), "--runs", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_ddp_without_a_launcher_is_told_how_to_start(tiny, tmp_path):
    with pytest.raises(ProblemError, match=r"missing: RANK, .*, start it with `penstock train --ranks 2"):
        run_command(["train", str(tiny), "train.engine=ddp", "--runs", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_does_not_divide_over_the_ranks_is_refused_before_a_run_is_made(server, tiny, tmp_path):
    first, second = server.run_ranks("train", tiny, "train.batch_size=3", "train.engine=ddp", cwd=tmp_path)
    assert (first.status, second.status) == (ExitCode.USAGE, ExitCode.USAGE)
    assert "a batch of 3 sequences cannot be split over 2 ranks" in first.said
    assert second.said == ""
    assert not (tmp_path / "runs").exists()


def test_what_rank_0_does_for_all_and_cannot_is_said_once(server, tiny, tmp_path):
    """Its data, and below what it alone opens. The others have nothing to add to it."""
    (tmp_path / "empty.txt").write_text("")
    corpus = f"data.corpus={{use: text, paths: [{tmp_path / 'empty.txt'}]}}"
    first, second = server.run_ranks("train", tiny, corpus, "train.engine=ddp", cwd=tmp_path)
    assert (first.status, second.status) == (ExitCode.USAGE, ExitCode.USAGE)
    assert first.said.count("error: rank 0: ") == 1
    assert second.said == ""


@pytest.mark.skipif(find_spec("prometheus_client") is None, reason="prometheus_client is not installed")
def test_a_port_that_rank_0_cannot_have_is_said_once(server, tiny, tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        observers = f"train.observers=[{{use: prometheus, port: {taken.getsockname()[1]}}}]"
        first, second = server.run_ranks("train", tiny, observers, "train.engine=ddp", cwd=tmp_path)
    assert (first.status, second.status) == (ExitCode.USAGE, ExitCode.USAGE)
    assert first.said.count("observer 'prometheus' cannot listen on") == 1
    assert second.said == ""
    assert not (tmp_path / "runs").exists()  # nor was the data prepared


def test_a_dry_run_finds_every_line_that_is_no_example(tiny, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "water"}\n{"prompt": "gate"}\nwater\n{"text": ""}\n')
    (tmp_path / "good.jsonl").write_text('{"text": "water"}\n')
    paths = f"paths: [{tmp_path / 'bad.jsonl'}], heldout: [{tmp_path / 'good.jsonl'}]"
    objective = f"train.objective={{use: masked-next-token, {paths}}}"
    with pytest.raises(ProblemError) as raised:
        run_command(["train", str(tiny), objective, "--dry-run"])
    lines = [f"{tmp_path}/bad.jsonl:{number}" for number in (2, 3, 4)]
    assert [problem.where for problem in raised.value.problems] == lines
