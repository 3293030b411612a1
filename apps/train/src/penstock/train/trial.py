"""Training that leaves nothing behind: a few steps to find something out, in a temporary folder.

Afterwards every generator of random numbers in this process is where it was, so that what trains next has the bits that
it would have had.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from penstock.data_prep.dataset import TokenDataset
from penstock.hooks.contracts import Objective
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory
from penstock.train.compose import pick_device
from penstock.train.engines.local import LocalEngine
from penstock.train.loop import Trainer
from penstock.train.training import assembled


class LocalTrainer(Trainer):
    """A trainer whose optimizer can be reached."""

    engine: LocalEngine

    def take_step(self) -> dict[str, float]:
        """One optimizer step; returns its measurements. Raises `ProblemError` where the loss is not finite."""
        return self._train_step()


@contextmanager
def trial(
    config: RunConfig, data: Path, *, steps: int, seed: int, objective: Objective | None = None
) -> Iterator[LocalTrainer]:
    """A trainer of the config's model at a constant rate, for so many steps, from initial weights and a data order of
    this seed. It reads the prepared `data`, or the batches of an `objective` that is prepared. Nothing is tracked."""
    only = {"seed": seed, "train": _without_records(config, steps)}
    config = config.model_copy(update=only)
    with _generators_kept(), tempfile.TemporaryDirectory(prefix="penstock-trial-") as folder:
        dataset, engine = TokenDataset.open(data, verify=False), LocalEngine(device=pick_device(config.train.device))
        made = assembled(config, dataset, engine, objective=objective, schedule=_constant)
        trainer = LocalTrainer(config, RunDirectory(Path(folder)), dataset, *made, engine)
        trainer.composition.set_tokens(0)
        yield trainer


def _without_records(config: RunConfig, steps: int) -> object:
    tokens = steps * config.tokens_per_step
    return config.train.model_copy(update={"tokens": tokens, "trackers": [], "observers": []})


def _constant(progress: float) -> float:
    return 1.0


@contextmanager
def _generators_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():  # on the CPU and on every GPU
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
