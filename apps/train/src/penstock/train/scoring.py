"""How well a trained encoder does its task: the figures of every held-out example.

Shape suffixes: N examples, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.architecture import architecture_settings
from penstock.hooks.contracts import Prediction, ScoredObjective, TrainingData
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Registry
from penstock.run.config import RunConfig
from penstock.train.data import training_data
from penstock.train.inputs import moved
from penstock.train.restore import Restored, restore

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TaskScores:
    """`values` and `weights` [N] by the name of a figure, an entry for each held-out example, in the order of the files
    that hold them: the figure over any of them is the sum of the values over the sum of the weights. So two models that
    were scored on the same files are compared example by example. `task` is the objective's name; the first figure is
    the task's own. `files` are the SHA-256 of the files, by name. `majority` is what the most frequent label alone
    scores, if the task is a classification."""

    task: str
    values: Mapping[str, Numbers]
    weights: Mapping[str, Numbers]
    files: Mapping[str, str]
    majority: float | None = None

    @property
    def figure(self) -> str:
        """The name of the task's own figure."""
        return next(iter(self.values))

    @property
    def examples(self) -> int:
        return len(self.values[self.figure])

    def total(self, name: str) -> float:
        """A figure over all examples."""
        return ratio(self.values[name], self.weights[name])


def ratio(value_N: Numbers, weight_N: Numbers) -> float:
    """Sum over sum; 0 where nothing has a weight, such as the precision of a model that finds no entity."""
    weight = float(weight_N.sum())
    return float(value_N.sum()) / weight if weight else 0.0


def is_scored(config: RunConfig) -> bool:
    """Whether a config's model predicts something else than the next token, so that its objective tells its figures."""
    return architecture_settings(config.model).predicts != Prediction.NEXT_TOKEN


def task_scores(path: Path, registry: Registry) -> TaskScores:
    """The scores of a run or an artifact on its own held-out examples."""
    return scores_of(restore(path, registry))


def scores_of(restored: Restored) -> TaskScores:
    """The scores of a restored model. Raises `ProblemError` for an objective that scores no examples, and for files
    that are gone."""
    choice = restored.config.train.objective
    name, objective = choice.entry.component.name, choice.build()
    if not isinstance(objective, ScoredObjective):
        what, fix = f"the objective '{name}' scores no examples", "train with another one, such as classification"
        raise ProblemError(Problem("unsupported", what, "train.objective", fix))
    trained: Any = objective
    trained.prepare(_data(restored))
    device = next(restored.composition.module.parameters()).device
    columns: dict[str, list[list[Numbers]]] = {}
    for batch in objective.examples():
        for figure, pair in objective.scores(restored.model, moved(batch, device)).items():
            columns.setdefault(figure, []).append([each.double().cpu().numpy() for each in pair])
    joined = {figure: [np.concatenate(part) for part in zip(*parts, strict=True)] for figure, parts in columns.items()}
    return TaskScores(
        name,
        {figure: pair[0] for figure, pair in joined.items()},
        {figure: pair[1] for figure, pair in joined.items()},
        {file: digest for file, digest in trained.fingerprint().items() if file.startswith("heldout/")},
        getattr(objective, "majority", None),
    )


def _data(restored: Restored) -> TrainingData:
    """A task reads its files with the model's tokenizer; only hidden tokens are those of the run's data."""
    config, tokenizer = restored.config, restored.tokenizer
    if architecture_settings(config.model).predicts == Prediction.MASKED:
        return training_data(config, restored.dataset)
    return TrainingData(
        train=_Nothing(),
        heldout=_Nothing(),
        tokenizer=tokenizer,
        end_of_text=tokenizer.end_of_text,
        byte_lengths_V=tokenizer.byte_lengths(),
        sequence_length=config.data.sequence_length,
        batch_size=config.train.batch_size,
        heldout_tokens=config.train.evaluate_tokens,
        seed=config.seed,
    )


class _Nothing:
    """A `TokenSource` without a token."""

    tokens = 0

    def slice(self, start: int, stop: int) -> NDArray[np.int64]:
        return np.zeros(0, dtype=np.int64)
