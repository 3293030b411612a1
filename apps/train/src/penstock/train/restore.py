"""Loads the model, data and tokenizer of a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.hooks.contracts import LanguageModel
from penstock.hooks.problems import failed
from penstock.hooks.registry import Registry
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory
from penstock.run.plugin_lock import plugin_lock
from penstock.train.checkpoint import Checkpoint, newest_checkpoint
from penstock.train.compose import Composition, compose_model, pick_device
from penstock.train.data import open_data


@dataclass(frozen=True)
class Restored:
    """A trained run, ready to be used. Its data is looked for when it is first needed, so a run can be used without."""

    run: RunDirectory
    config: RunConfig
    checkpoint: Checkpoint
    composition: Composition
    tokenizer: BpeTokenizer

    @property
    def model(self) -> LanguageModel:
        return self.composition.model

    @cached_property
    def dataset(self) -> TokenDataset:
        """The data that the run was trained on; raises `ProblemError` if it was not found."""
        dataset = open_data(self.run, self.config)
        self.checkpoint.require_tokenizer(dataset.manifest.tokenizer_sha256)
        return dataset


def checkpoint_of(run: RunDirectory) -> Checkpoint:
    """The newest whole checkpoint of a run; raises `ProblemError` if it has none."""
    checkpoint = newest_checkpoint(run.checkpoints, messages.warn)
    if checkpoint is None:
        fix = "resume it until it writes one"
        raise failed("no-checkpoint", "the run has no checkpoint", str(run.path), fix)
    return checkpoint


def restore(path: Path, registry: Registry, checkpoint: Checkpoint | None = None) -> Restored:
    """Loads a verified checkpoint of a run, by default the newest whole one; raises `ProblemError` if it has none.
    Warns if the code of a component has changed since training, because the restored model may then compute something
    else."""
    run = RunDirectory.open(path)
    config = run.config(registry)
    checkpoint = checkpoint or checkpoint_of(run)
    for line in checkpoint.plugin_changes(plugin_lock(config)):
        messages.warn(line)
    tokenizer = BpeTokenizer.load(checkpoint.path)
    composition = compose_model(
        config,
        tokenizer.vocabulary_size,
        pick_device(config.train.device),
        end_of_text=tokenizer.end_of_text,
    )
    checkpoint.require_base(composition.model)
    checkpoint.load(composition)
    composition.module.eval()
    return Restored(run, config, checkpoint, composition, tokenizer)
