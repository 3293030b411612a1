"""How good a model is: bits per byte of the run's held-out text, or the figure of the task that it was trained for."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch

from penstock.data_prep.dataset import TokenDataset
from penstock.eval_suite.runner import run_task
from penstock.eval_suite.tasks import Heldout
from penstock.evaluate.evaluation import (
    READS_THE_CORPUS,
    heldout_text,
    heldout_tokens,
    rows_together,
    task_context,
)
from penstock.generate.model import Sampling, TextModel
from penstock.generate.opening import open_model
from penstock.hooks.architecture import architecture_settings
from penstock.hooks.contracts import Prediction
from penstock.hooks.registry import Registry
from penstock.quant158.decoder import Decoder
from penstock.run.records.evaluation import heldout_figure
from penstock.train.data import training_data
from penstock.train.heldout import heldout_metrics
from penstock.train.inputs import moved
from penstock.train.restore import Restored
from penstock.train.scoring import is_scored, scores_of

# Figures of a held-out pass, the first that there is.
LOSSES = ("bits_per_byte", "loss")
ALL = 2**62
"""More tokens than anything holds out."""
PROMPT, NEW, ROUNDS = 16, 32, 3


@dataclass(frozen=True, slots=True)
class Quality:
    """A figure of a model. `text` is the SHA-256 of what it was measured on."""

    metric: str
    higher_is_better: bool
    value: float
    text: str


def quality_of(restored: Restored, dataset: TokenDataset) -> Quality:
    """Measured on all that the run holds out."""
    if restored.config.train.objective.entry.id == READS_THE_CORPUS:
        return _of_text(restored, dataset)
    return _of_task(restored) if is_scored(restored.config) else _of_objective(restored, dataset)


def _of_text(restored: Restored, dataset: TokenDataset) -> Quality:
    heldout = heldout_tokens(dataset)
    context = task_context(restored.config, restored.tokenizer, heldout)
    scored = run_task(Heldout(), restored.model, context, batch_size=rows_together(restored.config.model))
    bits = heldout_figure(scored.metrics)
    assert bits is not None  # all of the text was scored
    return Quality("bits per byte", False, bits, heldout_text(restored.tokenizer, heldout).sha256)


def _of_task(restored: Restored) -> Quality:
    """The task's own figure over all of its held-out examples."""
    scores = scores_of(restored)
    text = hashlib.sha256(repr(sorted(scores.files.items())).encode()).hexdigest()
    return Quality(scores.figure.replace("_", " "), True, scores.total(scores.figure), text)


def _of_objective(restored: Restored, dataset: TokenDataset) -> Quality:
    """The loss of an objective that reads other text than the corpus."""
    objective: Any = restored.config.train.objective.build()
    objective.prepare(replace(training_data(restored.config, dataset), heldout_tokens=ALL))
    name, value = _loss(objective, restored)
    read = {key: value for key, value in objective.fingerprint().items() if key.startswith("heldout")}
    text = hashlib.sha256(repr([sorted(read.items()), dataset.hash]).encode()).hexdigest()
    return Quality(name.replace("_", " "), False, value, text)


def _loss(objective: Any, restored: Restored) -> tuple[str, float]:
    """Bits per byte where the loss is that of text, else nats."""
    device = next(restored.composition.module.parameters()).device
    with torch.inference_mode():
        found = heldout_metrics(objective.heldout(), lambda batch: objective.loss(restored.model, moved(batch, device)))
    name = next(each for each in LOSSES if f"heldout/{each}" in found)
    return name, found[f"heldout/{name}"]


def speed_of(path: Path, restored: Restored, dataset: TokenDataset, registry: Registry) -> tuple[float | None, str]:
    """Tokens a second of one text, with what decoded it; for a model that does not generate, None and what it
    predicts."""
    predicted = architecture_settings(restored.config.model).predicts
    if predicted != Prediction.NEXT_TOKEN:
        return None, f"predicts {predicted.text}"
    model = open_model(path, registry)
    prompt = heldout_tokens(dataset)[:PROMPT].tolist()
    seconds = [_seconds_a_token(model, prompt) for _ in range(ROUNDS)]
    return 1 / statistics.median(seconds), "decoder" if isinstance(model.model, Decoder) else "torch"


def _seconds_a_token(model: TextModel, prompt: list[int]) -> float:
    """After the first token, which waits for the prompt."""
    room = model.room(prompt)
    most = NEW if room is None else min(NEW, room)
    tokens = cast(Iterator[int], iter(model.next_tokens(prompt, Sampling(temperature=0), most)))
    next(tokens)
    begun = time.perf_counter()
    made = sum(1 for _ in islice(tokens, most - 1))
    return (time.perf_counter() - begun) / max(1, made)
