"""Figures that others have published, and what a measurement of the same model finds.

A figure belongs to a task with its settings, a length of windows and a metric, whose name has the convention; figures
of other conventions, such as those of the GPT-2 paper, whose own detokenizers were never published, are not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.hooks.contracts import TaskResult


@dataclass(frozen=True, slots=True)
class Published:
    """A metric's `value` to so many `digits` after the point, of a `model` that reads `sequence_length` tokens at once.
    `task` are the settings that find it, as `--task` takes them. `standard_error` is the source's own, if it gives one,
    over the questions of the task: a measurement of the same model on all of them has no such error."""

    model: str
    task: Mapping[str, Any]
    sequence_length: int
    metric: str
    value: float
    digits: int
    source: str
    standard_error: float | None = None


_HARNESS = "EleutherAI/lm-evaluation-harness#2159"
_PERPLEXITY = "huggingface/transformers#13761"
FIGURES: Mapping[str, Sequence[Published]] = {
    "gpt2": (
        Published(
            "gpt2",
            {"use": "wikitext2", "convention": "lm-eval"},
            1024,
            "wikitext2.word_perplexity@lm-eval-1024",
            37.37,
            2,
            _PERPLEXITY,
        ),
        Published(
            "gpt2",
            {"use": "wikitext2", "convention": "concat"},
            1024,
            "wikitext2.token_perplexity@concat-1024",
            29.94,
            2,
            _PERPLEXITY,
        ),
        Published("gpt2", {"use": "lambada"}, 1024, "lambada.accuracy@openai-last-word", 0.3256, 4, _HARNESS, 0.0065),
        Published("gpt2", {"use": "lambada"}, 1024, "lambada.perplexity@openai-last-word", 40.06, 2, _HARNESS, 1.48),
    )
}
"""By the model's name on the hub; `gpt2` has 124M parameters."""


@dataclass(frozen=True, slots=True)
class Row:
    """A published figure and ours; None where it was not measured."""

    published: Published
    ours: float | None

    @property
    def difference(self) -> float | None:
        return None if self.ours is None else self.ours - self.published.value

    @property
    def relative(self) -> float | None:
        """The difference in parts of the published figure."""
        return None if self.difference is None else self.difference / self.published.value

    @property
    def agrees(self) -> bool | None:
        """Whether ours is the published figure, once it is rounded to as many digits."""
        return None if self.ours is None else round(self.ours, self.published.digits) == self.published.value


def tasks_of(model: str) -> list[Mapping[str, Any]]:
    """The settings of the tasks that find the figures of a model, each once."""
    tasks: list[Mapping[str, Any]] = []
    for figure in FIGURES[model]:
        if figure.task not in tasks:
            tasks.append(figure.task)
    return tasks


def beside(model: str, results: Iterable[TaskResult]) -> Iterator[Row]:
    """A row for each published figure of the model. Results of a part of a task, such as its first items, have other
    names, and are not compared."""
    ours = {name: value for result in results for name, value in result.metrics.items()}
    return (Row(figure, ours.get(figure.metric)) for figure in FIGURES[model])
