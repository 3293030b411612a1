"""`penstock evaluate A B --compare`: a baseline and its compressed form on the same text."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from penstock.data_prep.dataset import TokenDataset
from penstock.data_prep.tokenizer import BpeTokenizer
from penstock.eval_suite.comparison import Compared, Difference, compare, differences, require_comparable, samples_of
from penstock.eval_suite.intervals import Scores, ratio_interval
from penstock.eval_suite.runner import Prepared
from penstock.evaluate.config import HELDOUT
from penstock.evaluate.evaluation import EarlierTask, heldout_tokens, prepare_tasks, rows_together
from penstock.hooks.architecture import require_next_token
from penstock.hooks.contracts import TaskContext
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, Registry
from penstock.quant158.artifact.reader import is_artifact
from penstock.run import messages
from penstock.run.config import RunConfig
from penstock.run.directory import RunDirectory
from penstock.run.records.comparison import ComparedDocument, ComparedModel, Comparison, PairedFigure, PairFigure
from penstock.run.records.data import DataRecord
from penstock.run.records.record import parse_record, read_record, write_record
from penstock.train.artifact import OpenedArtifact
from penstock.train.checkpoint import BASE
from penstock.train.data import RECORD, open_data
from penstock.train.progress import StageProgress
from penstock.train.restore import Restored, checkpoint_of, restore_artifact, restore_run

WORST = 5
_TEXT_SHOWN = 60  # characters of a document


@dataclass(frozen=True, slots=True)
class ComparedPaths:
    """The record of a comparison, and its sums over each document, for whoever pools several (see
    `penstock.eval_suite.comparison.Compared`)."""

    record: Comparison
    scores: Scores


@dataclass(frozen=True, slots=True)
class _Side:
    """A run's newest checkpoint or an artifact, of which no weights are loaded yet. `file` is what holds them, and its
    bytes; `record` is where a comparison of this compressed model is kept."""

    path: Path
    config: RunConfig
    tokenizer: BpeTokenizer
    dataset: Callable[[], TokenDataset]
    trained_on: DataRecord | None
    load: Callable[[], Restored]
    file: tuple[str, int]
    record: Path

    @classmethod
    def of(cls, path: Path, registry: Registry) -> _Side:
        """Raises `ProblemError` for a path that is neither a run with a checkpoint nor a sound artifact."""
        return cls._artifact(path, registry) if is_artifact(path) else cls._run(path, registry)

    @classmethod
    def _run(cls, path: Path, registry: Registry) -> _Side:
        run = RunDirectory.open(path)
        config, checkpoint = run.config(registry), checkpoint_of(run)
        weights = checkpoint.path / "model.safetensors"
        frozen = ", without its frozen base" if (checkpoint.path / BASE).is_file() else ""
        return cls(
            run.path,
            config,
            BpeTokenizer.load(checkpoint.path),
            partial(open_data, run, config),
            read_record(DataRecord, run.path / RECORD),
            partial(restore_run, run.path, registry, checkpoint),
            (f"{weights.name}{frozen}", weights.stat().st_size),
            run.path / "comparison.json",
        )

    @classmethod
    def _artifact(cls, path: Path, registry: Registry) -> _Side:
        opened = OpenedArtifact.open(path, registry)
        artifact = opened.artifact
        record = artifact.file(RECORD) if RECORD in artifact.header.files else None
        return cls(
            path,
            opened.config,
            opened.tokenizer,
            opened.dataset,
            None if record is None else parse_record(DataRecord, record, f"{path}: {RECORD}"),
            partial(restore_artifact, opened),
            (path.name, artifact.file_bytes),
            path.with_suffix(".comparison.json"),
        )

    def described(self, restored: Restored) -> ComparedModel:
        architecture, hashes = self.config.model.entry.id, dict(restored.digests())
        return ComparedModel(str(self.path), restored.checkpoint_name, architecture, hashes, *self.file)


def compare_paths(
    baseline: Path, compressed: Path, registry: Registry, task: Choice | None = None, **options: Any
) -> ComparedPaths:
    """Compares two runs or artifacts on the baseline's held-out documents, or on the text of `task`. What is wrong with
    tokenizers, task and text is raised before a model is loaded. The record is kept in the compressed run as
    `comparison.json`, or beside the artifact as `NAME.comparison.json`. `options` are those of `TaskContext`."""
    begun = time.perf_counter()
    sides = _Side.of(baseline, registry), _Side.of(compressed, registry)
    for side in sides:
        require_next_token(side.config.model, "--compare", str(side.path))
    _require_one_tokenizer(*sides)
    chosen = task or registry.choose("task", HELDOUT)
    name, prepared = _prepared(sides, chosen, options)
    first, second = (side.load() for side in sides)
    together = min(rows_together(side.config.model) for side in sides)
    with StageProgress() as progress:
        found = compare(
            first.model, second.model, prepared, batch_size=together, progress=partial(progress, "tokens compared")
        )
    models = sides[0].described(first), sides[1].described(second)
    record = _record(models, name, prepared, found, sides[0].tokenizer, time.perf_counter() - begun)
    _keep(sides[1].record, record)
    return ComparedPaths(record, found.scores)


def _require_one_tokenizer(baseline: _Side, compressed: _Side) -> None:
    if baseline.tokenizer.hash != compressed.tokenizer.hash:
        what = f"another tokenizer than that of {baseline.path}, so the models do not predict the same tokens"
        fix = "compare runs of one tokenizer, or evaluate each by itself: bits per byte need none in common"
        raise ProblemError(Problem("tokenizer-mismatch", what, str(compressed.path), fix))


def _prepared(sides: tuple[_Side, _Side], task: Choice, options: dict[str, Any]) -> tuple[str, Prepared]:
    """The name of the task, and its text in windows that both models can read."""
    baseline, compressed = sides
    length = min(side.config.data.sequence_length for side in sides)
    heldout = _heldout(baseline, compressed) if task.entry.component.name == "heldout" else None
    ((name, prepared),) = prepare_tasks([task], TaskContext(baseline.tokenizer, heldout, length, **options)).items()
    if isinstance(prepared, EarlierTask):
        what = f"task '{name}' was written against contract 1, which asks one model only"
        raise ProblemError(Problem("bad-value", what, "--task", "use heldout, text or wikitext2"))
    require_comparable(prepared, name)
    return name, prepared


def _heldout(baseline: _Side, compressed: _Side) -> np.ndarray:
    """Warns if the compressed model may have been trained on the text that the baseline held out."""
    own, others = baseline.trained_on, compressed.trained_on
    if own is not None and others is not None and own.files != others.files:
        text = "its training text may contain what is held out from the baseline"
        messages.warn(f"{compressed.path} was trained on other data than {baseline.path}: {text}")
    return heldout_tokens(baseline.dataset())


def _record(
    models: tuple[ComparedModel, ComparedModel],
    task: str,
    prepared: Prepared,
    found: Compared,
    tokenizer: BpeTokenizer,
    seconds: float,
) -> Comparison:
    scores, figures = found.scores, differences(found.scores)
    return Comparison(
        baseline=models[0],
        compressed=models[1],
        times_smaller=models[0].bytes / models[1].bytes,
        task=task,
        sequence_length=prepared.context.sequence_length,
        tokens=int(scores["tokens"].sum()),
        bytes=int(scores["bytes"].sum()),
        samples=len(scores["tokens"]),
        samples_are="documents" if found.documents else "windows",
        loss=_paired(figures["loss"]),
        bits_per_byte=_paired(figures["bits_per_byte"]),
        top1_accuracy=_paired(figures["top1_accuracy"]),
        top1_agreement=_of_pair(scores, "same", 1.0),
        kl_divergence=_of_pair(scores, "kl", math.inf),
        worst=_worst(prepared, scores, tokenizer),
        seconds=round(seconds, 3),
    )


def _paired(figure: Difference) -> PairedFigure:
    return PairedFigure(figure.baseline, figure.compressed, figure.difference, figure.interval)


def _of_pair(scores: Scores, name: str, most: float) -> PairFigure:
    """A mean over tokens of figures from 0 to `most`."""
    value, found = float(scores[name].sum() / scores["tokens"].sum()), ratio_interval(scores[name], scores["tokens"])
    return PairFigure(value, found and replace(found, low=max(0.0, found.low), high=min(most, found.high)))


def _worst(prepared: Prepared, scores: Scores, tokenizer: BpeTokenizer) -> list[ComparedDocument]:
    """The documents whose bits per byte rise most; equals in the order of the text."""
    byte_K = scores["bytes"]
    bits = {who: scores[f"{who}_nll"] / np.log(2) / np.maximum(byte_K, 1) for who in ("baseline", "compressed")}
    rise_K = np.where(byte_K > 0, bits["compressed"] - bits["baseline"], -np.inf)
    samples, order = samples_of(prepared), np.argsort(-rise_K, kind="stable")[:WORST]
    return [
        ComparedDocument(
            samples[k].name,
            tokenizer.decode(samples[k].token_N[:_TEXT_SHOWN].tolist())[:_TEXT_SHOWN],
            int(byte_K[k]),
            float(bits["baseline"][k]),
            float(bits["compressed"][k]),
            float(rise_K[k]),
        )
        for k in order
        if byte_K[k] > 0
    ]


def _keep(path: Path, record: Comparison) -> None:
    """What was measured is printed even where it cannot be kept."""
    try:
        write_record(path, record)
    except OSError as error:
        messages.warn(f"the comparison was not kept in {path} ({error.strerror})")
