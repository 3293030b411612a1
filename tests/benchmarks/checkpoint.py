"""What a checkpoint costs training, and how long a run is away after the death of a rank.

- A checkpoint that is written beside training (`train.checkpoint_async`) stalls it for a copy of the model and the
  optimizer state. The bar compares it with one memory copy of as many bytes, for a model of 100M parameters with
  AdamW. A small model has nearly as many tensors, so most of its stall is finding and copying each: 12.7M parameters
  with Muon are printed beside it.
- The three steps after it vs three steps before, for the small model, whose steps are short.
- A checkpoint that training waits for, and the first copy, whose memory is new, have no bar. Everything is put together
  as `penstock train` does.
- Recovery: two ranks of `penstock train` (`ddp`, a thread each), of which one is killed; both are started again.
  Seconds by part, of the rank that was slower.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import torch
from measure import Bar, Row, finish, json_option, medians, rounds, runs_option
from quickstart import CONFIG

from penstock.conformance.ranks import torchrun_variables
from penstock.hooks import Registry
from penstock.run.config import load_run_config
from penstock.run.directory import RunDirectory
from penstock.train.checkpoint import checkpoint_path
from penstock.train.checks import Planned
from penstock.train.loop import Trainer
from penstock.train.memory import keep_freed_memory
from penstock.train.ranks import joined
from penstock.train.training import _trainer, prepare_run

MODEL = ("model.hidden_size=256", "model.num_hidden_layers=7", "model.moe_intermediate_size=256", "train.batch_size=8")
LARGE = (
    "model.hidden_size=640",
    "model.num_hidden_layers=10",
    "model.moe_intermediate_size=640",
    "train.batch_size=1",
    "train.optimizer={use: adamw, lr: 0.001}",
)
QUIET = ("train.evaluate_every=null", "train.tokens=1000000000", "train.trackers=[]")
STEPS = 3  # after a checkpoint, in which it is written
# A rank that says when it has reached what: `penstock train`, from its first line on.
RANK = """
import json, sys, time

def tell(what):
    print(json.dumps([what, time.monotonic()]), flush=True)

def telling(owner, name, what):
    call = getattr(owner, name)
    def told(*arguments, **named):
        result = call(*arguments, **named)
        tell(what)
        return result
    setattr(owner, name, told)

tell("process start")
import penstock.train.training as training
from penstock.cli.main import run
from penstock.train.loop import Trainer
tell("imports")
telling(training, "require_for_start", "meeting and checks")
telling(training, "_trainer", "data and model")
telling(Trainer, "resume", "load")
telling(Trainer, "_train_step", "first step")
try:
    run(sys.argv[1:])
except BaseException:
    tell("end")
    raise
"""
PARTS = ("process start", "imports", "meeting and checks", "data and model", "load", "first step")


@click.command()
@runs_option
@rounds(7)
@json_option
def main(runs: Path | None, rounds: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = runs or Path(temporary)
        saving, small = measured_saving(folder, MODEL, rounds)
        of_large, large = measured_saving(folder, LARGE, max(3, rounds // 2))
        recovery = measured_recovery(folder)
    parts = [{"recovery": part, "seconds": seconds} for part, seconds in recovery.items()]
    rows: list[Row] = [*saving, *of_large, *parts]
    bars = [
        Bar("stall of an asynchronous checkpoint vs a memory copy, large model", large["stall"], 1.3, at_least=False),
        Bar("three steps while it is written vs three steps, small model", small["steps"], 1.15, at_least=False),
    ]
    finish("checkpoint", rows, bars, as_json, threads=torch.get_num_threads())


# ---------------------------------------------------------------------------------------------- saving


@contextmanager
def trainer_of(folder: Path, model: Sequence[str]) -> Iterator[tuple[Trainer, int]]:
    """Put together as `penstock train` does, and the bytes of its copies."""
    registry = Registry.discover()
    overrides = [*model, *QUIET, "train.checkpoint_async=true"]
    config, document = load_run_config(CONFIG, overrides, registry)
    keep_freed_memory()
    with joined(config) as engine:
        data = Path(prepare_run(config, folder)["data"])
        run = RunDirectory.create(folder, config, document, overrides, registry)
        yield _trainer(config, run, data, engine), Planned(config, folder).copied_bytes


def measured_saving(folder: Path, model: Sequence[str], rounds: int) -> tuple[list[Row], dict[str, float]]:
    """The rows of a model, and the ratios that have bars."""
    with trainer_of(folder, model) as (trainer, copied):
        source, target = torch.ones(copied // 4), torch.zeros(copied // 4)

        def steps() -> None:
            for _ in range(STEPS):
                trainer._train_step()
                trainer.saver.agree(False)

        def waited() -> float:
            seconds = timed(trainer._save)
            steps()
            return seconds

        steps()
        first = timed(trainer._begin_to_save)
        steps()
        trainer.saver.finish()
        during: list[float] = []

        def stall() -> float:
            seconds = timed(trainer._begin_to_save)
            during.append(timed(steps))
            trainer.saver.finish()
            return seconds

        cases: dict[str, Callable[[], float]] = {
            "three steps": lambda: timed(steps),
            "memory copy": lambda: timed(lambda: target.copy_(source)),
            "stall of an asynchronous checkpoint": stall,
            "three steps while it is written": lambda: during[-1],
            "checkpoint that training waits for": waited,
        }
        seconds = medians(cases, rounds=rounds)
    seconds["stall of the first, in new memory"] = first
    parameters = sum(each.numel() for each in trainer.composition.module.parameters())
    size = f"{parameters / 1e6:.1f}M, {copied / 1e6:.0f} MB"
    rows: list[Row] = [{"model": size, "saving": name, "milliseconds": 1000 * each} for name, each in seconds.items()]
    return rows, {
        "stall": seconds["stall of an asynchronous checkpoint"] / seconds["memory copy"],
        "steps": seconds["three steps while it is written"] / seconds["three steps"],
    }


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


# ---------------------------------------------------------------------------------------------- recovery


class Ranks:
    """Two ranks of a run, and when each has reached what."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.begun = time.monotonic()
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, *arguments],
                env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for variables in torchrun_variables(2)
        ]

    def until(self, rank: int, what: str) -> dict[str, float]:
        """When a rank had first reached each part, up to this one."""
        reached: dict[str, float] = {}
        stream = self.processes[rank].stdout
        assert stream is not None
        while what not in reached:
            line = stream.readline()
            if not line:
                raise RuntimeError(f"rank {rank} ended before: {what}")
            if line.startswith("["):
                name, moment = json.loads(line)
                reached.setdefault(name, moment)
        return reached

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


def measured_recovery(folder: Path) -> dict[str, float]:
    overrides = [*MODEL, *QUIET, "train.engine=ddp", "train.checkpoint_async=true", "train.checkpoint_every=4"]
    arguments = ["train", str(CONFIG), "name=recovery", *overrides, "--runs", str(folder), "--resume", "auto"]
    with Ranks(arguments) as ranks:
        while not list(folder.glob("recovery/2*/checkpoints/latest")):
            ranks.until(0, "first step")
        killed = time.monotonic()
        ranks.processes[1].send_signal(signal.SIGKILL)
        seconds = {"detection": ranks.until(0, "end")["end"] - killed}
        ranks.processes[0].wait()
    (latest,) = folder.glob("recovery/2*/checkpoints/latest")
    with Ranks(arguments) as ranks:
        reached = [ranks.until(rank, "first step") for rank in range(2)]
        slower = max(reached, key=lambda moments: moments["first step"])
        before = ranks.begun
        for part in PARTS:
            seconds[part], before = slower[part] - before, slower[part]
    assert checkpoint_path(latest.parent, int(latest.read_text().strip().removeprefix("step-"))).exists()
    return {**seconds, "all": sum(seconds.values())}


if __name__ == "__main__":
    main()
