"""Token perplexity of a whole text as one stream, by the two loops that published figures come from.

`concat-1024` and `concat-1024-stride-512` are the loop in the documentation of transformers ("Perplexity of
fixed-length models"). Unlike the windows of `likelihood`, a window of 1,024 tokens predicts 1,023 of them: its first
token is context only, also where the window before ended with it, and the last window may be short. The loop weighs
each window with one token less than it adds; for windows that overlap, this is not the number of its predictions.

`gptq-2048` is the loop of GPTQ and of most papers on quantization: windows that do not overlap, and the tokens after
the last whole window are left out.

Shape suffixes: N tokens of the text, K windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.contracts import Answer, Likelihood, LikelihoodAnswer
from penstock.hooks.problems import Problem, ProblemError


@dataclass(frozen=True, slots=True)
class Part:
    """A window reads tokens `begin .. end - 1`, and tokens from `first` on are predicted; their mean counts as much as
    `weight` tokens."""

    begin: int
    first: int
    end: int
    weight: int


def overlapping(tokens: int, window: int, stride: int) -> list[Part]:
    """The windows of transformers' documentation; one that predicts nothing is left out."""
    parts: list[Part] = []
    added = 0
    for begin in range(0, tokens, stride):
        end = min(begin + window, tokens)
        first = max(added, begin + 1)
        if first < end:
            parts.append(Part(begin, first, end, end - added - 1))
        added = end
        if end == tokens:
            break
    return parts


def whole(tokens: int, window: int) -> list[Part]:
    """The windows of GPTQ."""
    return [Part(begin, begin + 1, begin + window, window - 1) for begin in range(0, tokens - tokens % window, window)]


@dataclass(frozen=True, slots=True)
class Concatenated:
    """The tokens of a text, and the windows that read it."""

    token_N: NDArray[Any]
    parts: Sequence[Part]

    def requests(self) -> list[Likelihood]:
        return [
            Likelihood(self.token_N[part.begin : part.first].tolist(), self.token_N[part.first : part.end].tolist())
            for part in self.parts
        ]

    def samples(self, answers: Sequence[Answer]) -> list[dict[str, float]]:
        """One a window: its nats and its tokens, as the loop weighs them."""
        nll_K = np.array([answer.nll for answer in cast("Sequence[LikelihoodAnswer]", answers)])
        return [
            {"nll": nll * part.weight / (part.end - part.first), "tokens": float(part.weight)}
            for nll, part in zip(nll_K.tolist(), self.parts, strict=True)
        ]


def concatenated(token_N: NDArray[Any], window: int, stride: int | None, *, gptq: bool, where: str) -> Concatenated:
    """Raises `ProblemError` if the text has too few tokens for a window that predicts anything."""
    count = len(token_N)
    parts = whole(count, window) if gptq else overlapping(count, window, stride or window)
    if not parts or window < 2:
        what = f"the text has {count} token{'' if count == 1 else 's'}, too few for a window of {window}"
        raise ProblemError(Problem("bad-value", what, where, "use a longer text, or windows of 2 tokens or more"))
    return Concatenated(token_N, parts)


def window_name(window: int, stride: int | None) -> str:
    """
    >>> window_name(1024, None), window_name(1024, 512)
    ('1024', '1024-stride-512')
    """
    return f"{window}" if stride in (None, window) else f"{window}-stride-{stride}"
