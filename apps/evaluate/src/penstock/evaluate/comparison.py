"""`penstock evaluate A B --compare`: a baseline and its compressed form on the same text and the same questions."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from penstock.cli.stage_progress import StageProgress
from penstock.eval_suite.comparison import (
    Compared,
    Difference,
    compare,
    differences,
    is_text,
    require_bytes,
    samples_of,
)
from penstock.eval_suite.intervals import Scores, ratio_interval
from penstock.eval_suite.runner import Prepared
from penstock.evaluate.compared_models import Side
from penstock.evaluate.compared_tasks import PreparedPair, adjusted
from penstock.evaluate.config import HELDOUT
from penstock.evaluate.evaluation import EarlierTask, heldout_tokens, prepare_tasks, rows_together
from penstock.hooks.architecture import require_next_token
from penstock.hooks.contracts import TaskContext, Tokenizer
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice, Registry
from penstock.run import messages
from penstock.run.records.comparison import ComparedDocument, Comparison, PairedFigure, PairFigure
from penstock.run.records.record import write_record

WORST = 5
_TEXT_SHOWN = 60  # characters of a document


@dataclass(frozen=True, slots=True)
class ComparedPaths:
    """The record of a comparison, and its sums over each document of a text, if there is one, for whoever pools several
    (see `penstock.eval_suite.comparison.Compared`)."""

    record: Comparison
    scores: Scores | None


def compare_paths(
    baseline: Path, compressed: Path, registry: Registry, tasks: Sequence[Choice] = (), **options: Any
) -> ComparedPaths:
    """Compares two runs, artifacts or folders of transformers on `tasks`, or on the held-out documents of a baseline
    that has some. Models of one tokenizer are compared token by token on a text, and models of two document by
    document, per byte. What is wrong with tokenizers, tasks and text is raised before a model is loaded. The record is
    kept in the compressed run as `comparison.json`, or beside the artifact or folder as `NAME.comparison.json`.
    `options` are those of `TaskContext`."""
    begun = time.perf_counter()
    sides = Side.of(baseline, registry), Side.of(compressed, registry)
    for side in sides:
        require_next_token(side.architecture, "--compare", str(side.path))
    text, pairs = _prepared(sides, tasks or [registry.choose("task", HELDOUT)], options)
    loaded = [side.load() for side in sides]
    models = loaded[0].model, loaded[1].model
    together = rows_together(sides[0].architecture), rows_together(sides[1].architecture)
    found = None
    with StageProgress() as progress:
        if text is not None:
            of_text = partial(progress, "tokens compared")
            found = compare(*models, text[1], batch_size=min(together), progress=of_text)
        compared = {name: pair.compare(models, together, partial(progress, name)) for name, pair in pairs.items()}
    described = sides[0].described(loaded[0]), sides[1].described(loaded[1])
    record = Comparison(
        baseline=described[0],
        compressed=described[1],
        times_smaller=described[0].bytes / described[1].bytes,
        tasks=adjusted(compared),
    )
    if text is not None and found is not None:
        record = _with_text(record, *text, found, sides[0].tokenizer)
    record = replace(record, seconds=round(time.perf_counter() - begun, 3))
    _keep(sides[1].record, record)
    return ComparedPaths(record, None if found is None else found.scores)


def _prepared(
    sides: tuple[Side, Side], tasks: Sequence[Choice], options: Mapping[str, Any]
) -> tuple[tuple[str, Prepared] | None, dict[str, PreparedPair]]:
    """The text that is compared token by token, with its name, and every other task by name. Windows are of the length
    that both models can read."""
    first, second = sides
    alike = first.tokenizer.hash == second.tokenizer.hash
    length = min(side.sequence_length for side in sides)
    heldout = None
    if any(task.entry.component.name == "heldout" for task in tasks):
        _require_one_tokenizer(alike, sides)
        heldout = _heldout(first, second)
    of_first = _of_contract_2(tasks, TaskContext(first.tokenizer, heldout, length, **options))
    if alike:
        texts = {name: prepared for name, prepared in of_first.items() if is_text(prepared)}
        for name, prepared in texts.items():
            require_bytes(prepared, name)
        if len(texts) > 1:
            what, fix = f"--compare takes one text, not {len(texts)}", "compare once for each"
            raise ProblemError(Problem("bad-value", what, "--task", fix))
        others = {name: PreparedPair(each, each) for name, each in of_first.items() if name not in texts}
        return next(iter(texts.items()), None), others
    of_second = _of_contract_2(tasks, TaskContext(second.tokenizer, None, length, **options))
    pairs = {name: PreparedPair(each, of_second[name]) for name, each in of_first.items()}
    for name, pair in pairs.items():
        if is_text(pair.baseline) and len(pair.baseline.asked) == 1:
            _require_one_tokenizer(alike, sides)  # windows of a single document hold other text
        pair.require_same_items(name)
    return None, pairs


def _require_one_tokenizer(alike: bool, sides: tuple[Side, Side]) -> None:
    if not alike:
        what = f"another tokenizer than that of {sides[0].path}, so the models do not predict the same tokens"
        fix = "compare them on questions, or on several documents: --task '{use: text, paths: [FOLDER]}'"
        raise ProblemError(Problem("tokenizer-mismatch", what, str(sides[1].path), fix))


def _of_contract_2(tasks: Sequence[Choice], context: TaskContext) -> dict[str, Prepared]:
    prepared: dict[str, Prepared] = {}
    for name, task in prepare_tasks(tasks, context).items():
        if isinstance(task, EarlierTask):
            what = f"task '{name}' was written against contract 1, which asks one model only"
            raise ProblemError(Problem("bad-value", what, "--task", "use a task of contract 2"))
        prepared[name] = task
    return prepared


def _heldout(baseline: Side, compressed: Side) -> np.ndarray:
    """Warns if the compressed model may have been trained on the text that the baseline held out."""
    own, others = baseline.trained_on, compressed.trained_on
    if own is not None and others is not None and own.files != others.files:
        text = "its training text may contain what is held out from the baseline"
        messages.warn(f"{compressed.path} was trained on other data than {baseline.path}: {text}")
    return heldout_tokens(baseline.dataset())


def _with_text(record: Comparison, task: str, prepared: Prepared, found: Compared, tokenizer: Tokenizer) -> Comparison:
    scores, figures = found.scores, differences(found.scores)
    return replace(
        record,
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
    )


def _paired(figure: Difference) -> PairedFigure:
    return PairedFigure(figure.baseline, figure.compressed, figure.difference, figure.interval)


def _of_pair(scores: Scores, name: str, most: float) -> PairFigure:
    """A mean over tokens of figures from 0 to `most`."""
    value, found = float(scores[name].sum() / scores["tokens"].sum()), ratio_interval(scores[name], scores["tokens"])
    return PairFigure(value, found and replace(found, low=max(0.0, found.low), high=min(most, found.high)))


def _worst(prepared: Prepared, scores: Scores, tokenizer: Tokenizer) -> list[ComparedDocument]:
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
        messages.note(f"the comparison is kept in {path}")
    except OSError as error:
        messages.warn(f"the comparison was not kept in {path} ({error.strerror})")
