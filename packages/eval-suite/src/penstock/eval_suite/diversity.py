"""How much texts repeat themselves, and one another. Words are the parts of a text at white space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.hooks.problems import Problem, ProblemError

Gram = tuple[str, ...]


def grams(words: Sequence[str], n: int) -> list[Gram]:
    """Every run of n words, from the first on."""
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def longest_repeated(words: Sequence[str]) -> int:
    """The words of the longest run that a text has twice, also where both overlap; 0 if no word comes twice.

    >>> longest_repeated("so it was and so it was not".split())
    3
    """
    least, most = 0, len(words) - 1  # whatever repeats n words repeats n - 1 of them
    while least < most:
        middle = (least + most + 1) // 2
        runs = grams(words, middle)
        least, most = (middle, most) if len(set(runs)) < len(runs) else (least, middle - 1)
    return max(least, 0)


def self_bleu(texts: Sequence[str]) -> list[float]:
    """The BLEU of each text with all others as references, 0 to 100: sacrebleu's sentence BLEU with its defaults. The
    higher, the more alike the texts are (https://arxiv.org/abs/1802.01886). Raises `ProblemError` without sacrebleu."""
    bleu = require_bleu()
    return [
        bleu.sentence_bleu(text, [*texts[:number], *texts[number + 1 :]]).score for number, text in enumerate(texts)
    ]


def require_bleu() -> Any:
    """The package sacrebleu; raises `ProblemError` if it is not installed."""
    try:
        import sacrebleu
    except ImportError as error:
        fix = "install it with `uv add 'penstock-eval-suite[bleu]'`, or set `self_bleu: false`"
        raise ProblemError(Problem("missing-package", "needs the package 'sacrebleu'", "self-BLEU", fix)) from error
    return sacrebleu
