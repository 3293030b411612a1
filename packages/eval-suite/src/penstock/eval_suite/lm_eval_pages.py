"""WikiText as lm-evaluation-harness measures it: article by article, with the spacing of its tokens removed.

The task `wikitext` of the harness gives GPT-2 124M a word perplexity of 37.37. It has habits that change the figure,
and that are kept here to the letter: the text loses the spaces around some punctuation only (the pattern for years
never matches), while words and bytes are counted in the article before that; the first token follows the end-of-text
token; and the last window of an article is filled with tokens that were scored before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.metrics import count_words
from penstock.eval_suite.prompts import first_token
from penstock.hooks.contracts import Answer, Likelihood, LikelihoodAnswer, Rolling, RollingAnswer, Tokenizer

_SPACED = tuple(f" {mark} " for mark in ":;.!?,")
_PAIRS = ("()", "[]", "{}", '""', "''")
_STEPS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("s '", "s'"),
        ("/' [0-9]/", "/'[0-9]/"),  # slashes of another language's notation: it never matches
        *((f" @{re.escape(mark)}@ ", mark) for mark in "-,."),
        *((re.escape(mark), mark[1:]) for mark in _SPACED),
        *((rf"\{left}\s*([^\{right}]*?)\s*\{right}", rf"{left}\1{right}") for left, right in _PAIRS),
        *((re.escape(" ".join("=" * count)), "=" * count) for count in (4, 3, 2)),
        (" ° ", "°"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    )
)


@dataclass(frozen=True, slots=True)
class Page:
    """An article: end of text and its tokens without spacing [N], its words and bytes before that, and the tokens that
    the model reads at once."""

    token_N: NDArray[Any]
    words: int
    bytes: int
    window: int

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer, window: int) -> Page:
        token_N = np.array([first_token(tokenizer), *tokenizer.encode(detokenized(text))])
        return cls(token_N, count_words(text), len(text.encode()), window)

    def requests(self) -> list[Rolling | Likelihood]:
        """Disjoint windows; where the last would be short, it begins earlier and scores only what is new."""
        window, positions = self.window, len(self.token_N) - 1
        rest = positions % window if positions > window else 0
        whole = Rolling(self.token_N[: len(self.token_N) - rest], window)
        if not rest:
            return [whole]
        last = self.token_N[-window - 1 :].tolist()
        return [whole, Likelihood(last[:-rest], last[-rest:])]

    def samples(self, answers: Sequence[Answer]) -> list[dict[str, float]]:
        sizes = {"words": self.words, "bytes": self.bytes, "tokens": len(self.token_N) - 1}
        return [{"nll": sum(map(_nats, answers)), **{name: float(size) for name, size in sizes.items()}}]


def _nats(answer: Answer) -> float:
    match answer:
        case RollingAnswer():
            return float(answer.nll_N.sum())
        case LikelihoodAnswer():
            return answer.nll
        case _:
            raise TypeError(f"a page asks for no {type(answer).__name__}")


def pages_of(text: str) -> Iterator[tuple[str, str]]:
    """The title and the text of each article: a line with one `=` at each end begins one, and a section's, with two or
    more, does not. What stands before the first title is left out if it is blank."""
    title, lines = "", list[str]()
    for line in text.split("\n"):
        joined = line.replace("= = =", "===").replace("= =", "==").strip()
        if joined.startswith("= ") and joined.endswith(" ="):
            if "\n".join(lines).strip():
                yield title, "\n".join(lines)
            title, lines = joined.strip("= "), []
        lines.append(line)
    yield title, "\n".join(lines)


def detokenized(text: str) -> str:
    """The text without the spaces that WikiText puts around tokens, as far as the harness removes them."""
    for pattern, replacement in _STEPS:
        text = pattern.sub(replacement, text)
    return text
