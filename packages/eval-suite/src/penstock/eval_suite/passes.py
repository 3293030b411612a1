"""The computation of a model for batches of texts, one kind of rows at a time.

Shape suffixes: B rows, S positions, D model width, N scored positions of all rows, M targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.eval_suite.generation import generated
from penstock.eval_suite.likelihood import depends_on_batch, device_of, head, padded, window_nll
from penstock.eval_suite.plan import Batch, Text
from penstock.eval_suite.rows import Output, Row
from penstock.hooks.contracts import (
    LanguageModel,
    Likelihood,
    LikelihoodAnswer,
    RewindableCache,
    Rolling,
    Tokenizer,
)
from penstock.hooks.problems import Problem, ProblemError


class Passes:
    """Computes batches, and keeps the cache of the beginning that their texts share from one batch to the next.

    The model is in evaluation mode. With `alone`, it reads one text at a time, and the head computes one at a time; so
    does a model whose routers depend on the batch. `capacity` is the most positions of a text.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, *, capacity: int, alone: bool = False) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._alone = alone
        self._together = not alone and not depends_on_batch(model)
        self._capacity = capacity
        self._cache: Any = None
        self._read: list[NDArray[np.integer]] = []

    @torch.inference_mode()
    def outputs(self, batch: Batch, rows: Mapping[str, Row]) -> dict[str, Output]:
        """The output of each row of the batch. Raises `ProblemError` if a token is not in the model's vocabulary."""
        tokens = [rows[key].token_S for key in batch.keys]
        require_vocabulary(
            self._model, min(int(each.min()) for each in tokens), max(int(each.max()) for each in tokens)
        )
        parts = [batch] if self._together or batch.ends else [Batch([text]) for text in batch.texts]
        found: dict[str, Output] = {}
        for part in parts:
            found |= self._of_kind(part, rows)
        return found

    def _of_kind(self, batch: Batch, rows: Mapping[str, Row]) -> dict[str, Output]:
        asked = [rows[key] for key in batch.keys]
        if asked[0].kind is Likelihood:
            return self._continuations(batch, rows)
        if asked[0].kind is Rolling:
            nll = window_nll(self._model, [row.token_S for row in asked], [row.scored for row in asked])
            return dict(zip(batch.keys, nll, strict=True))
        return dict(zip(batch.keys, generated(self._model, self._tokenizer, asked), strict=True))

    def _continuations(self, batch: Batch, rows: Mapping[str, Row]) -> dict[str, Output]:
        """Computes the head only for the positions that predict a continuation, once for all that they predict."""
        hidden = self._hidden(batch)
        if not self._alone:
            return answers_at(self._model, batch.texts, hidden, rows)
        alone = (answers_at(self._model, [text], [each], rows) for text, each in zip(batch.texts, hidden, strict=True))
        return {key: answer for answers in alone for key, answer in answers.items()}

    def _hidden(self, batch: Batch) -> list[torch.Tensor]:
        """Of each text, the hidden states [N, D] from `scored` on."""
        if batch.ends:
            self._read_beginning(batch.texts[0].token_S, batch.ends)
            return [self._behind(text, batch.ends[-1]) for text in batch.texts]
        hidden_BSD = self._model(_on(self._model, padded([text.token_S for text in batch.texts]))).hidden_BSD
        return [hidden_BSD[number, text.scored : len(text.token_S)] for number, text in enumerate(batch.texts)]

    def _read_beginning(self, token_S: NDArray[np.integer], ends: Sequence[int]) -> None:
        """Fills the cache with the parts up to each of `ends`, apart from the first ones that it holds already."""
        if self._cache is None:
            self._cache = self._model.new_cache(1, self._capacity)
        parts = [token_S[start:end] for start, end in zip((0, *ends), ends, strict=False)]
        kept = 0
        while kept < min(len(parts), len(self._read)) and np.array_equal(parts[kept], self._read[kept]):
            kept += 1
        self._cache.rewind(sum(map(len, parts[:kept])))
        for part in parts[kept:]:
            self._model(_on(self._model, padded([part])), cache=self._cache)
        self._read = parts

    def _behind(self, text: Text, start: int) -> torch.Tensor:
        hidden_1SD = self._model(_on(self._model, padded([text.token_S[start:]])), cache=self._cache).hidden_BSD
        self._cache.rewind(start)
        return hidden_1SD[0, text.scored - start :]


def answers_at(
    model: LanguageModel, texts: Sequence[Text], hidden: Sequence[torch.Tensor], rows: Mapping[str, Row]
) -> dict[str, Output]:
    """The answers to the rows of texts whose hidden states from `scored` on are known."""
    starts = np.cumsum([0, *map(len, hidden)])[:-1]
    placed = [
        (key, int(start) + rows[key].scored - text.scored)
        for text, start in zip(texts, starts, strict=True)
        for key in text.keys
    ]
    targets = [rows[key].token_S[rows[key].scored + 1 :].astype(np.int64) for key, _ in placed]
    positions = [np.arange(start, start + len(target)) for (_, start), target in zip(placed, targets, strict=True)]
    nll_M, likeliest_M = head(model, torch.cat(list(hidden)), np.concatenate(targets), np.concatenate(positions))
    ends = np.cumsum([len(target) for target in targets])[:-1]
    return {
        key: LikelihoodAnswer(float(nll.sum()), bool(likeliest.all()))
        for (key, _), nll, likeliest in zip(placed, np.split(nll_M, ends), np.split(likeliest_M, ends), strict=True)
    }


def shares_beginnings(model: LanguageModel) -> bool:
    """Whether texts can be read one after the other behind a beginning that is read once."""
    make = getattr(model, "new_cache", None)  # absent from a model that only predicts
    return make is not None and not depends_on_batch(model) and isinstance(make(1, 1), RewindableCache)


def require_vocabulary(model: LanguageModel, smallest: int, largest: int) -> None:
    """Raises `ProblemError` if one of the tokens is not in the model's vocabulary."""
    if smallest < 0 or largest >= model.vocabulary_size:
        token = smallest if smallest < 0 else largest
        what = f"token {token} is outside the model's vocabulary of {model.vocabulary_size}"
        raise ProblemError(Problem("vocabulary-mismatch", what, "tokenizer", "use the tokenizer of the model"))


def _on(model: LanguageModel, token_BS: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(token_BS).to(device_of(model))
