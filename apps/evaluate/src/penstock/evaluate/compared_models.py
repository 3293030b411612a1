"""The two models of `penstock evaluate A B --compare`, before and after their weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.hub_tokenizer import HubTokenizer
from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.evaluate.model_folder import ModelFolder, is_model_folder
from penstock.evaluate.paths import open_run
from penstock.hooks.contracts import LanguageModel
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, Registry
from penstock.quant158.artifact.reader import is_artifact
from penstock.run.records.comparison import ComparedModel
from penstock.run.records.data import DataRecord
from penstock.run.records.record import parse_record, read_record
from penstock.train.artifact import OpenedArtifact
from penstock.train.checkpoint import BASE
from penstock.train.data import RECORD, open_data
from penstock.train.restore import Restored, checkpoint_of, restore_artifact, restore_run


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, its checkpoint's name, and the hashes of the files that its weights are in."""

    model: LanguageModel
    checkpoint: str
    digests: Mapping[str, str]

    @classmethod
    def of(cls, restored: Restored) -> Loaded:
        return cls(restored.model, restored.checkpoint_name, restored.digests())


@dataclass(frozen=True, slots=True)
class Side:
    """A run's newest checkpoint, an artifact or a folder of transformers, of which no weights are loaded yet. `file` is
    what holds them, and its bytes; `record` is where a comparison of this compressed model is kept."""

    path: Path
    architecture: Choice
    sequence_length: int
    tokenizer: BpeTokenizer | HubTokenizer
    dataset: Callable[[], TokenDataset]
    trained_on: DataRecord | None
    load: Callable[[], Loaded]
    file: tuple[str, int]
    record: Path

    @classmethod
    def of(cls, path: Path, registry: Registry) -> Side:
        """Raises `ProblemError` for a path that is no run with a checkpoint, no sound artifact and no folder of a
        causal model."""
        if is_artifact(path):
            return cls._artifact(path, registry)
        return cls._folder(path, registry) if is_model_folder(path) else cls._run(path, registry)

    @classmethod
    def _run(cls, path: Path, registry: Registry) -> Side:
        run = open_run(path)
        config, checkpoint = run.config(registry), checkpoint_of(run)
        weights = checkpoint.weight_files
        name = weights[0].name if len(weights) == 1 else f"{len(weights)} shards"
        frozen = ", without its frozen base" if (checkpoint.path / BASE).is_file() else ""
        return cls(
            run.path,
            config.model,
            config.data.sequence_length,
            BpeTokenizer.load(checkpoint.path),
            partial(open_data, run, config),
            read_record(DataRecord, run.path / RECORD),
            lambda: Loaded.of(restore_run(run.path, registry, checkpoint)),
            (f"{name}{frozen}", sum(file.stat().st_size for file in weights)),
            run.path / "comparison.json",
        )

    @classmethod
    def _artifact(cls, path: Path, registry: Registry) -> Side:
        opened = OpenedArtifact.open(path, registry)
        artifact = opened.artifact
        record = artifact.file(RECORD) if RECORD in artifact.header.files else None
        return cls(
            path,
            opened.config.model,
            opened.config.data.sequence_length,
            opened.tokenizer,
            opened.dataset,
            None if record is None else parse_record(DataRecord, record, f"{path}: {RECORD}"),
            lambda: Loaded.of(restore_artifact(opened)),
            (path.name, artifact.file_bytes),
            path.with_suffix(".comparison.json"),
        )

    @classmethod
    def _folder(cls, path: Path, registry: Registry) -> Side:
        folder = ModelFolder.open(path, registry)
        if folder.positions is None:
            what, fix = "the config does not say how many positions the model reads", "evaluate it by itself"
            raise ProblemError(Problem("missing-value", what, str(path), fix))
        files = sorted(path.glob("*.safetensors"))
        return cls(
            path,
            folder.architecture,
            folder.positions,
            folder.tokenizer,
            partial(_no_heldout, path),
            None,
            lambda: Loaded(folder.load(), folder.name, folder.digests),
            (files[0].name if len(files) == 1 else f"{len(files)} files", sum(file.stat().st_size for file in files)),
            path.resolve().parent / f"{folder.name}.comparison.json",
        )

    def described(self, loaded: Loaded) -> ComparedModel:
        hashes = dict(loaded.digests)
        return ComparedModel(str(self.path), loaded.checkpoint, self.architecture.entry.id, hashes, *self.file)


def _no_heldout(path: Path) -> NoReturn:
    what, fix = "a folder of transformers has no held-out documents", "name what to compare on with --task"
    raise ProblemError(Problem("no-heldout", what, str(path), fix))
