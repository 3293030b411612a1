"""A run that is stopped anywhere and continued ends with the bits of the run that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves

from penstock.hooks.problems import ExitCode, ProblemError

# What a clock measures differs between runs; everything else must not.
CLOCK = ("elapsed", "tokens_per_second", "seconds/")


def start(config_file: Path, runs: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", "train", str(config_file), "--runs", str(runs), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=config_file.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_step(runs: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Returns once the metrics of a step are written."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        for path in runs.glob("quickstart/2*/metrics.jsonl"):
            if f'"step": {step},' in path.read_text():
                return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was never reached: {process.communicate()[1]}")


def outcome(run: Path) -> tuple[dict[str, torch.Tensor], dict, list[dict]]:
    """Weights, optimizer state and metrics of a finished run, without clock readings."""
    newest = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in rows]
    return load_file(newest / "model.safetensors"), torch.load(newest / "trainer.pt")["engine"], metrics


def assert_same(run: Path, other: Path) -> None:
    (weights, engine, metrics), (weights_too, engine_too, metrics_too) = outcome(run), outcome(other)
    assert weights.keys() == weights_too.keys()
    for name in weights:
        assert torch.equal(weights[name], weights_too[name]), name
    assert metrics == metrics_too
    flat, flat_too = (tree_leaves(state) for state in (engine, engine_too))
    for one, two in zip(flat, flat_too, strict=True):
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def only_run(runs: Path) -> Path:
    (run,) = runs.glob("quickstart/2*")
    return run


@pytest.mark.parametrize(
    ("when", "how"), [(3, signal.SIGKILL), (7, signal.SIGKILL), (6, signal.SIGINT), (6, signal.SIGTERM)]
)
def test_a_stopped_run_resumes_bit_equal(trained, config_file, tmp_path, when, how):
    process = start(config_file, tmp_path)
    wait_for_step(tmp_path, when, process)
    process.send_signal(how)
    process.communicate(timeout=300)
    run = only_run(tmp_path)
    state = json.loads((run / "status.json").read_text())["state"]
    if process.returncode != 0:  # a quick machine may have finished first
        assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else ExitCode.INTERRUPTED)
        assert state == ("running" if how == signal.SIGKILL else "interrupted")
        again = [config_file, "auto"] if how == signal.SIGKILL else [run / "config.resolved.yaml", str(run)]
        resumed = start(Path(again[0]), tmp_path, "--resume", str(again[1]))
        _, message = resumed.communicate(timeout=300)
        assert resumed.returncode == 0, message
    assert only_run(tmp_path) == run
    assert_same(run, trained)


def test_resume_refuses_another_config_and_says_what_differs(command, config_file, trained):
    with pytest.raises(ProblemError, match=r"train\.tokens: was 1536, is 2048"):
        command("train", config_file, "train.tokens=2048", "--resume", trained)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(command, config_file, trained, tmp_path):
    again = Path(command("train", config_file, "--runs", tmp_path / "a")["run_dir"])
    assert_same(again, trained)
    other = Path(command("train", config_file, "seed=1", "--runs", tmp_path / "b")["run_dir"])
    assert outcome(other)[2] != outcome(trained)[2]


def test_micro_batches_do_not_change_the_step_beyond_rounding(command, config_file, trained, tmp_path):
    # The Switch loss of a micro-batch is a different loss by design, so it is left out here.
    plain = "model.balance=[{use: loss-free, rate: 0.01}]"
    runs = [
        Path(
            command(
                "train",
                config_file,
                plain,
                f"train.micro_batch_size={size}",
                "train.tokens=512",
                "--runs",
                tmp_path / str(size),
            )["run_dir"]
        )
        for size in (4, 2, 1)
    ]
    losses = [[row["loss"] for row in outcome(run)[2] if "loss" in row] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
