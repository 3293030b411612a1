"""Loads the model, data and tokenizer of a run directory or of an artifact."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.hooks.architecture import architecture_settings
from penstock.hooks.contracts import LanguageModel, PartlyFrozen, TrainedModel
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.hooks.registry import Registry
from penstock.quant158.artifact.reader import is_artifact
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory
from penstock.run.plugin_lock import LOCK, plugin_lock
from penstock.sharing.plan import plan_of
from penstock.train.artifact import TOKENIZER, OpenedArtifact
from penstock.train.checkpoint import MANIFEST, Checkpoint, newest_checkpoint, sha256
from penstock.train.compose import Composition, compose_model, pick_device
from penstock.train.data import RECORD, open_data


@dataclass(frozen=True)
class Restored(ABC):
    """A trained model, ready to be used. Its data is looked for when it is first needed, so it can be used without."""

    config: RunConfig
    composition: Composition
    tokenizer: BpeTokenizer

    @property
    def model(self) -> LanguageModel:
        return self.composition.model

    @property
    @abstractmethod
    def path(self) -> Path:
        """The run's folder, or the artifact."""

    @property
    @abstractmethod
    def step(self) -> int:
        """The steps that the model was trained for."""

    @property
    def checkpoint_name(self) -> str:
        return f"step-{self.step:08d}"

    @property
    @abstractmethod
    def tokenizer_json(self) -> bytes:
        """The content of the tokenizer's file."""

    @abstractmethod
    def digests(self) -> Mapping[str, str]:
        """The SHA-256 of the files that the weights are in, by name."""

    @cached_property
    @abstractmethod
    def dataset(self) -> TokenDataset:
        """The data that the model was trained on; raises `ProblemError` if it was not found."""


@dataclass(frozen=True)
class RestoredRun(Restored):
    """The model of a run's checkpoint."""

    run: RunDirectory
    checkpoint: Checkpoint

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def step(self) -> int:
        return self.checkpoint.step

    @property
    def tokenizer_json(self) -> bytes:
        return (self.checkpoint.path / TOKENIZER).read_bytes()

    def digests(self) -> Mapping[str, str]:
        digests, folder = self.checkpoint.digests(), self.checkpoint.path
        weights = [file.relative_to(folder).as_posix() for file in self.checkpoint.weight_files]
        return {name: digests[name] for name in (*weights, "config.json", "base.json") if name in digests}

    @cached_property
    def dataset(self) -> TokenDataset:
        dataset = open_data(self.run, self.config)
        self.checkpoint.require_tokenizer(dataset.manifest.tokenizer_sha256)
        return dataset


@dataclass(frozen=True)
class RestoredArtifact(Restored):
    """The model of an artifact."""

    opened: OpenedArtifact

    @property
    def path(self) -> Path:
        return self.opened.artifact.path

    @property
    def step(self) -> int:
        return self.opened.artifact.header.checkpoint.step

    @property
    def tokenizer_json(self) -> bytes:
        return self.opened.artifact.file(TOKENIZER)

    def digests(self) -> Mapping[str, str]:
        return {"artifact": self.opened.artifact.digest}

    @cached_property
    def dataset(self) -> TokenDataset:
        return self.opened.dataset()


def checkpoint_of(run: RunDirectory) -> Checkpoint:
    """The newest whole checkpoint of a run; raises `ProblemError` if it has none."""
    checkpoint = newest_checkpoint(run.checkpoints, messages.warn)
    if checkpoint is None:
        fix = "resume it until it writes one"
        raise failed("no-checkpoint", "the run has no checkpoint", str(run.path), fix)
    return checkpoint


def restore(path: Path, registry: Registry) -> Restored:
    """Loads an artifact, or the newest whole checkpoint of a run; raises `ProblemError` if `path` is neither."""
    return restore_artifact(OpenedArtifact.open(path, registry)) if is_artifact(path) else restore_run(path, registry)


def restore_artifact(opened: OpenedArtifact, *, packed: bool = False) -> RestoredArtifact:
    """Loads the weights of an artifact; `packed`: see `OpenedArtifact.compose`."""
    return RestoredArtifact(opened.config, opened.compose(packed=packed), opened.tokenizer, opened)


def restore_run(path: Path, registry: Registry, checkpoint: Checkpoint | None = None) -> RestoredRun:
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
    checkpoint.require_base(composition.base_hash)
    checkpoint.load(composition)
    composition.module.eval()
    return RestoredRun(config, composition, tokenizer, run, checkpoint)


def trained_model(restored: RestoredRun) -> TrainedModel:
    """What an exporter of contract 2 is told. Raises `ProblemError` for a model that needs more than its config."""
    config, composition = restored.config, restored.composition
    if isinstance(restored.model, PartlyFrozen):
        what = "the model learns beside a frozen base, which its config only names"
        fix = "export it with --format hf, which merges the two"
        raise ProblemError(Problem("not-exportable", what, str(restored.path), fix))
    places = {TOKENIZER: restored.checkpoint.path, LOCK: restored.checkpoint.path, RECORD: restored.run.path}
    files = {name: folder / name for name, folder in places.items()}
    return exported(
        config,
        composition,
        restored.tokenizer.vocabulary_size,
        end_of_text=restored.tokenizer.end_of_text,
        step=restored.step,
        tokens=restored.checkpoint.trainer_state().get("tokens"),
        sha256=sha256(restored.checkpoint.path / MANIFEST),
        files={name: file for name, file in files.items() if file.is_file()},
    )


def exported(
    config: RunConfig, composition: Composition, vocabulary_size: int, *, end_of_text: int | None = None, **told: Any
) -> TrainedModel:
    """What an exporter is told of a composed model. `told` are the fields of `TrainedModel` that its run says."""
    bare = compose_model(config, vocabulary_size, "meta", end_of_text=end_of_text, as_stored=True)
    state = composition.module.state_dict()
    own = {name: state[name] for name in bare.module.state_dict()}
    resolved = config.resolved()
    resolved["model"] |= architecture_settings(config.model).of_given_weights()
    return TrainedModel(
        model=composition.model,
        state=own,
        storage=composition.storage,
        sharing=plan_of(own),
        architecture=config.model.entry.id,
        config=json.loads(json.dumps(resolved)),
        **told,
    )
