"""Two processes that train one run have every bit of one process with two micro-batches, and no rank waits for ever."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from crash import differences, outcome
from safetensors.torch import load_file

from penstock.cli.main import run as run_command
from penstock.conformance.ranks import torchrun_variables
from penstock.hooks import ProblemError

ROOT = Path(__file__).parents[1]
LIMIT = 240  # seconds that ranks have: a hang is a failure
# Losses whose counts are summed over ranks before, while and after the step.
BALANCE = [
    "model.balance=[{use: loss-free, rate: 0.01}, {use: switch-loss, weight: 0.001}, "
    "{use: global-loss, weight: 0.1, counts: lagged}]",
    "model.balance=[{use: loss-free, rate: 0.01}, {use: global-loss, weight: 0.1}]",
]


@contextmanager
def started(*arguments: object, cwd: Path, own: Sequence[Sequence[str]] = ((), ())) -> Iterator[list[subprocess.Popen]]:
    """`penstock ARGUMENTS` as two ranks, each with arguments of its own; none outlives the block."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "penstock.cli", *map(str, arguments), *more],
            cwd=cwd,
            env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for variables, more in zip(torchrun_variables(2), own, strict=True)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ended(processes: Sequence[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each rank."""
    said = [process.communicate(timeout=LIMIT) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def train_as_ranks(*arguments: object, cwd: Path) -> Path:
    with started("train", *arguments, "train.engine=ddp", "--json", cwd=cwd) as processes:
        (first, result, error), (second, silent, other) = ended(processes)
    assert (first, second) == (0, 0), error + other
    assert (silent, other) == ("", "")
    return cwd / json.loads(result)["run_dir"]


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
    found["engine"].pop("torch_rng_of_ranks", None)
    for row in found["metrics"]:  # a root of a sum over a rank's own micro-batches: equal but for rounding
        row.pop("balance/global-loss/gradient_error", None)
    return found


def without_ranks(run: Path) -> set[str]:
    """Files of a run, which other ranks than the first added none to."""
    return {path.name for path in run.rglob("*") if path.is_file() and not path.name.startswith("events.out")}


@pytest.mark.parametrize("balance", BALANCE, ids=["lagged", "counts-first"])
def test_a_run_goes_on_with_other_ranks_to_the_same_bits(tiny, balance, tmp_path, monkeypatch):
    arguments = [tiny, balance, "model.router={use: sigmoid-topk, k: 2}", "train.micro_batch_size=2"]
    arguments += ["train.keep_checkpoints=9"]
    whole = train_alone(*arguments, "--runs", "whole", cwd=tmp_path, monkeypatch=monkeypatch)
    for name, resume in (("ranks-then-one", train_alone), ("one-then-ranks", train_as_ranks)):
        other = {"monkeypatch": monkeypatch} if resume is train_alone else {}
        if resume is train_alone:
            begun = train_as_ranks(*arguments, "--runs", name, cwd=tmp_path)
            assert differences(result_of(begun), result_of(whole)) == []
        else:
            begun = Path(shutil.copytree(tmp_path / "whole", tmp_path / name)) / whole.relative_to(tmp_path / "whole")
        shutil.rmtree(begun / "checkpoints" / "step-00000006")
        resume(*arguments, "--runs", name, "--resume", begun, cwd=tmp_path, **other)
        assert differences(result_of(begun), result_of(whole)) == []


def test_learned_thresholds_and_a_warm_up_have_the_same_bits_on_two_ranks(tiny, tmp_path, monkeypatch):
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


def test_a_plan_that_is_learned_is_the_same_on_two_ranks(tiny, tmp_path, monkeypatch):
    """All ranks settle on it at the same step; a set of weights that no layer took has no gradient on any."""
    learned = "{use: learned-sharing, budget: 2, parts: [q, k, v, o], temperature: {until: 0.5}}"
    sharing = f"model.sharing=[{learned}, {{use: factorised-embedding, rank: 4}}]"
    arguments = [tiny, sharing, "model.num_hidden_layers=4", "train.micro_batch_size=2"]
    ranks = train_as_ranks(*arguments, "--runs", "ranks", cwd=tmp_path)
    alone = train_alone(*arguments, "--runs", "alone", cwd=tmp_path, monkeypatch=monkeypatch)
    assert differences(result_of(ranks), result_of(alone)) == []
    assert (ranks / "sharing.json").read_text() == (alone / "sharing.json").read_text()


def test_the_mean_is_over_the_counted_tokens_of_the_whole_step_whatever_the_cut(tiny, tmp_path, monkeypatch):
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


def test_a_signal_to_one_rank_stops_both_with_one_checkpoint(tiny, tmp_path):
    arguments = ["train", tiny, "train.micro_batch_size=2", "train.tokens=64000", "train.checkpoint_every=10000"]
    arguments += ["train.evaluate_every=null", "train.engine=ddp"]
    with started(*arguments, cwd=tmp_path) as processes:
        deadline = time.monotonic() + LIMIT
        while not any(path.stat().st_size for path in tmp_path.glob("runs/tiny/2*/metrics.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        assert [status for status, _, _ in ended(processes)] == [130, 130]
    (run,) = tmp_path.glob("runs/tiny/2*")
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert len(list((run / "checkpoints").glob("step-*"))) == 1


FAILING = """
import os

from penstock.hooks import Component, hookimpl


class Failing:
    def __call__(self, progress):
        if progress > 0.3 and os.environ.get("RANK") == "1":
            raise ArithmeticError("no factor here")
        return 1.0


@hookimpl
def schedules():
    return [Component("schedule", "failing", f"{__name__}:Failing", "Fails on one rank")]
"""


def test_an_error_on_one_rank_ends_the_other_which_says_what_it_was(tiny, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    arguments = ["--plugin", "failing.py", "train", tiny, "train.micro_batch_size=2"]
    with started(*arguments, "train.schedule=failing", "train.engine=ddp", cwd=tmp_path) as processes:
        (first, _, said), (second, _, error) = ended(processes)
    assert (first, second) == (1, 1)
    assert "rank 0: another rank exited (rank 1: ArithmeticError: no factor here)" in said
    assert "Traceback" not in said
    assert "ArithmeticError: no factor here" in error
    (run,) = tmp_path.glob("runs/tiny/2*")
    assert json.loads((run / "status.json").read_text())["state"] == "failed"


def test_ranks_with_other_configs_do_not_begin(tiny, tmp_path):
    with started("train", tiny, "train.engine=ddp", cwd=tmp_path, own=[(), ["seed=1"]]) as processes:
        results = ended(processes)
    assert [status for status, _, _ in results] == [2, 2]
    assert "rank 1: seed: has 1, rank 0 has 0" in results[0][2]
    assert results[1][2] == ""
    assert not (tmp_path / "runs").exists()


def test_several_processes_of_one_engine_do_not_train_the_same_run_twice(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProblemError, match="2 processes were started, but engine 'local' uses 1"):
        run_command(["train", str(tiny), "--runs", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_ddp_without_a_launcher_is_told_how_to_start(tiny, tmp_path):
    with pytest.raises(ProblemError, match=r"missing: RANK, .*, start it with `penstock train --ranks 2"):
        run_command(["train", str(tiny), "train.engine=ddp", "--runs", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_does_not_divide_over_the_ranks_is_refused_before_a_run_is_made(tiny, tmp_path):
    with started("train", tiny, "train.batch_size=3", "train.engine=ddp", cwd=tmp_path) as processes:
        results = ended(processes)
    assert [status for status, _, _ in results] == [2, 2]
    assert "a batch of 3 sequences cannot be split over 2 ranks" in results[0][2]
    assert results[1][2] == ""
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_finds_every_line_that_is_no_example(tiny, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "water"}\n{"prompt": "gate"}\nwater\n{"text": ""}\n')
    (tmp_path / "good.jsonl").write_text('{"text": "water"}\n')
    paths = f"paths: [{tmp_path / 'bad.jsonl'}], heldout: [{tmp_path / 'good.jsonl'}]"
    objective = f"train.objective={{use: masked-next-token, {paths}}}"
    with pytest.raises(ProblemError) as raised:
        run_command(["train", str(tiny), objective, "--dry-run"])
    lines = [f"{tmp_path}/bad.jsonl:{number}" for number in (2, 3, 4)]
    assert [problem.where for problem in raised.value.problems] == lines
