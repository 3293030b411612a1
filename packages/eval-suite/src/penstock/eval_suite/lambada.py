"""LAMBADA: the last word of a passage, which people can guess from the whole passage but not from its last sentence.

The test set is OpenAI's variant, which is cased and keeps punctuation: GPT-2 was measured on it, and it is the
`lambada_openai` of lm-evaluation-harness, with the same two metrics. The word is the text after the last space. It is
right if all of its tokens are the likeliest, which is stricter than counting GPT-2's last tokens (46.67 % right).

Figures of another number of passages than the published 5,153 have it in their names:
`lambada.accuracy@openai-last-word-of-12-passages`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from penstock.eval_suite.prompts import continuation, refuse_shots
from penstock.eval_suite.sources import DataSet, other_size, texts_of
from penstock.hooks.contracts import (
    Answer,
    Array,
    Estimate,
    Item,
    Likelihood,
    LikelihoodAnswer,
    TaskContext,
    TaskResult,
)
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import Problem, ProblemError

DATA = DataSet("EleutherAI/lambada_openai", "default", "test", "lambada/lambada_test.jsonl")
PASSAGES = 5_153
"""Passages in the published test set."""


class Lambada:
    """Share of last words that are the model's first choice, and their perplexity."""

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = None if path is None else expanded(path)

    def items(self, context: TaskContext) -> Iterator[Item]:
        """Raises `ProblemError` for a missing file or column, and for a passage of one word."""
        refuse_shots(context, "lambada")
        passages = list(self._passages(context))
        for number, (where, text) in enumerate(passages):
            passage, space, word = text.rstrip("\r\n").rpartition(" ")  # a copy of a row may end its line
            if not space or not word:
                what = "the passage does not end with a space and a word to predict"
                raise ProblemError(Problem("invalid-field", what, where, "remove the row"))
            yield Item(str(number), passage, (word, len(passages)))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Likelihood]:
        word, _ = item.gold
        return [continuation(context.tokenizer, item.document, f" {word}")]

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        (answer,) = cast("Sequence[LikelihoodAnswer]", answers)
        _, passages = item.gold
        return [{"right": float(answer.likeliest), "nll": answer.nll, "passages": float(passages)}]

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        nats = float(np.mean(scores["nll"]))
        other = other_size(int(scores["passages"][0]), PASSAGES, "passages")
        convention = "-".join(filter(None, ["openai-last-word", other]))
        accuracy, perplexity = f"lambada.accuracy@{convention}", f"lambada.perplexity@{convention}"
        return TaskResult(
            {
                accuracy: float(np.mean(scores["right"])),
                perplexity: math.exp(nats) if nats < 700 else math.inf,
            },
            estimates={accuracy: Estimate("right"), perplexity: Estimate("nll", exponential=True)},
        )

    def _passages(self, context: TaskContext) -> Iterator[tuple[str, str]]:
        return texts_of(DATA.rows(self._path, context), "text")
