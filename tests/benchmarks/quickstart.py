"""What benchmarks train: whole runs of the quickstart, and its training step, put together as `penstock train` does.

The tokens of the step are random ids of the config's vocabulary: a step takes the same time on them, and no corpus has
to be prepared before a benchmark.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from penstock.cli.main import run
from penstock.hooks import Registry
from penstock.hooks.contracts import Batch, Inputs
from penstock.run.config import RunConfig, load_run_config
from penstock.train.compose import compose_model, compose_optimizer, compose_schedule
from penstock.train.engines.local import LocalEngine
from penstock.train.objectives.next_token import NextToken
from penstock.train.restore import RestoredRun, restore_run
from penstock.train.step_module import StepModule

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def trained_run(folder: Path, *overrides: str, name: str = "quickstart") -> RestoredRun:
    """The finished run of the quickstart with this name in a folder of runs; trains it if the folder has none. Runs of
    one folder read one preparation of the data."""
    finished = [path for path in folder.glob(f"{name}/2*") if '"finished"' in (path / "status.json").read_text()]
    if not finished:
        arguments = ["train", str(CONFIG), f"name={name}", *overrides, "--runs", str(folder), "--resume", "auto"]
        with redirect_stdout(sys.stderr):  # stdout is for the result
            finished = [Path(run(arguments)["run_dir"])]
    return restore_run(finished[-1], Registry.discover())


class Quickstart:
    """The model and engine of the quickstart config with overrides, and one batch."""

    def __init__(self, *overrides: str) -> None:
        self.config: RunConfig = load_run_config(CONFIG, overrides, Registry.discover())[0]
        vocabulary = self.config.data.tokenizer.vocab_size
        self.composition = compose_model(self.config, vocabulary)
        self.engine = LocalEngine(device=torch.device("cpu"))
        self.engine.prepare(
            StepModule(self.composition.model, NextToken()),
            lambda module: compose_optimizer(self.config, module.model),
            compose_schedule(self.config),
        )
        length = self.config.data.sequence_length
        self.token_BS: Tensor = torch.randint(vocabulary, (self.config.train.batch_size, length + 1))
        self.tokens_per_step = self.config.train.batch_size * length

    def gradients(self) -> None:
        """Forward and backward."""
        batch = Batch(Inputs(self.token_BS[:, :-1]), self.token_BS[:, 1:], self.tokens_per_step)
        self.engine.backward(self.engine.forward(batch).loss / self.tokens_per_step, last=True)

    def optimizer_step(self) -> None:
        """What a run's `seconds/optimizer` counts: clip, step, clear the gradients."""
        self.engine.clip(self.config.train.gradient_clip)
        self.engine.step(progress=0.1)

    def step(self) -> None:
        self.gradients()
        self.optimizer_step()
