"""The files of a ledger: trained, packed and measured once, and found again after a kill.

A file is what it was made from: the config of its row, the checkpoint of its weights, the code of both and of what
measured it. One that was made from the same, and whose content has not changed since, is not made again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.compress.plan import Plan, PlannedRow
from penstock.compress.quality import Quality, quality_of, speed_of
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Registry
from penstock.quant158.artifact import Artifact
from penstock.quant158.artifact.sizes import ArtifactSize, size_of
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory
from penstock.run.plugin_lock import content_hash, plugin_lock
from penstock.run.records.compression import CompressedFile, FileBytes
from penstock.run.records.record import read_record, write_record
from penstock.train.artifact import TOKENIZER, OpenedArtifact
from penstock.train.checkpoint import MANIFEST, sha256
from penstock.train.compose import compose_model, parameter_summary, pick_device
from penstock.train.restore import RestoredRun, checkpoint_of, restore_artifact, restore_run, trained_model
from penstock.train.reuse import finished, run_of
from penstock.train.training import train_alone

# The modules that write and read a file, whose code its figures depend on beside that of the model's components.
TIMED = 0
"""Only the files of this seed are timed: the seed changes weights, and weights do not change speed."""
CODE = ("penstock.quant158", "penstock.eval_suite", "penstock.compress")


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a plan is carried out: `runs` has the trained runs and their data, `folder` the ledger."""

    plan: Plan
    runs: Path
    folder: Path
    registry: Registry

    def run(self, row: PlannedRow, seed: int) -> RunDirectory:
        """The finished run of a trained row; trains or continues it first if need be."""
        config, document = row.seeded(seed, self.registry)
        found = run_of(self.runs, config)
        if found is None or not finished(found):
            resume = str(found.path) if found else None
            trained = train_alone(config, document, self.runs, self.registry, resume=resume)
            found = RunDirectory(Path(trained.run_dir))
        return found

    def file(self, row: PlannedRow, seed: int) -> CompressedFile:
        """The file of a row and what was measured on it."""
        run = self.run(self.plan.row(row.weights), seed)
        config = row.seeded(seed, self.registry)[0]
        path = self.folder / row.name / f"seed-{seed}.penstock"
        key = _key(row, config, sha256(checkpoint_of(run).path / MANIFEST))
        known = self.known(row, seed)
        if known is None or known.key != key or not path.is_file() or sha256(path) != known.sha256:
            known = self._made(row, seed, run, path, key)
            write_record(path.with_suffix(".json"), known)
        return known

    def known(self, row: PlannedRow, seed: int) -> CompressedFile | None:
        """What was measured on a file earlier, however it was made; None if that is not known."""
        path = self.folder / row.name / f"seed-{seed}.json"
        try:
            return read_record(CompressedFile, path)
        except ProblemError as error:
            messages.warn(f"{error}; the file is measured again")
            return None

    def _made(self, row: PlannedRow, seed: int, run: RunDirectory, path: Path, key: str) -> CompressedFile:
        restored = self._with_weights(row, seed, run)
        row.exporter.build().export(trained_model(restored), path)
        opened = restore_artifact(OpenedArtifact.open(path, self.registry))
        dataset = restored.dataset
        quality: Quality = quality_of(opened, dataset)
        timed = seed == TIMED
        speed, by = speed_of(path, opened, dataset, self.registry) if timed else (None, "")
        status = run.status()
        return CompressedFile(
            row=row.name,
            seed=seed,
            path=f"{row.name}/{path.name}",
            key=key,
            sha256=sha256(path),
            parameters=parameter_summary(restored.composition).total,
            bytes=bytes_of(size_of(Artifact.open(path))),
            quality=quality.value,
            text=quality.text,
            run=str(run.path),
            seconds=status.seconds or 0.0,
            decoded_by=by,
            tokens_per_second=speed,
            metric=quality.metric,
            higher_is_better=quality.higher_is_better,
        )

    def _with_weights(self, row: PlannedRow, seed: int, run: RunDirectory) -> RestoredRun:
        """The row's model with the weights of a run, which may have been trained for another format."""
        restored = restore_run(run.path, self.registry)
        if row.trained:
            return restored
        config = row.seeded(seed, self.registry)[0]
        tokenizer = restored.tokenizer
        composition = compose_model(
            config, tokenizer.vocabulary_size, pick_device(config.train.device), end_of_text=tokenizer.end_of_text
        )
        restored.checkpoint.load(composition)
        composition.module.eval()
        return RestoredRun(config, composition, tokenizer, restored.run, restored.checkpoint)


def bytes_of(size: ArtifactSize) -> FileBytes:
    """Every byte of an artifact, as a ledger counts them."""
    return FileBytes(
        codes={each.format: each.codes for each in size.formats},
        scales=sum(each.scales for each in size.formats),
        header=size.header,
        hashes=size.hashes,
        padding=size.padding,
        other=sum(count for name, count in size.files.items() if name != TOKENIZER),
        tokenizer=size.files.get(TOKENIZER, 0),
    )


def _key(row: PlannedRow, config: RunConfig, checkpoint: str) -> str:
    """A hash of everything that a file and its figures depend on."""
    made_from: list[Any] = [
        config.resolved(),
        plugin_lock(config),
        row.exporter.entry.id,
        row.exporter.arguments(),
        checkpoint,
        [content_hash(module) for module in CODE],
    ]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()
