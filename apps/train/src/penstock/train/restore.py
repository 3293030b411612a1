"""Loads the model, data and tokenizer of a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penstock.data_prep.dataset import TokenDataset
from penstock.hooks.contracts import LanguageModel
from penstock.hooks.problems import failed
from penstock.hooks.registry import Registry
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory
from penstock.run.plugin_lock import plugin_lock
from penstock.train.checkpoint import Checkpoint, newest_checkpoint
from penstock.train.compose import Composition, compose_model, open_dataset, pick_device


@dataclass(frozen=True, slots=True)
class Restored:
    """A trained run, ready to be measured."""

    run: RunDirectory
    config: RunConfig
    checkpoint: Checkpoint
    composition: Composition
    dataset: TokenDataset

    @property
    def model(self) -> LanguageModel:
        return self.composition.model


def restore(path: Path, registry: Registry) -> Restored:
    """Loads the newest whole checkpoint of a run; raises `ProblemError` if the run has no whole checkpoint or
    its data is missing. Warns if the code of a component has changed since training, because the restored model may
    then compute something else."""
    run = RunDirectory.open(path)
    config = run.config(registry)
    checkpoint = newest_checkpoint(run.checkpoints, messages.warn)
    if checkpoint is None:
        raise failed("no-checkpoint", "the run has no checkpoint", str(path), "resume it until it writes one")
    for line in checkpoint.plugin_changes(plugin_lock(config)):
        messages.warn(line)
    dataset = open_dataset(run.runs, config, verify=False)
    checkpoint.require_tokenizer(dataset.manifest.tokenizer_sha256)
    composition = compose_model(
        config,
        dataset.manifest.vocabulary_size,
        pick_device(config.train.device),
        end_of_text=dataset.tokenizer().end_of_text,
    )
    checkpoint.require_base(composition.model)
    checkpoint.load(composition)
    composition.module.eval()
    return Restored(run, config, checkpoint, composition, dataset)
