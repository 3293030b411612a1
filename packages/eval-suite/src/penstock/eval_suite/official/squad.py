"""Exact match and F1 of short answers, as the official scripts of SQuAD 1.1 and 2.0 score them.

Texts are compared in lower case, without punctuation, articles and extra space, and the best of several gold answers
counts. The scripts differ where nothing is left of a text: in 1.1 it shares no word with anything, so two empty texts
match exactly with an F1 of 0; in 2.0 it is the answer "none", which equals itself, and gold answers of which nothing is
left do not count.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Rules: TypeAlias = Literal["1.1", "2.0"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """Means over questions, in percent."""

    exact_match: float
    f1: float


def answer_scores(answers: Iterable[tuple[str, Sequence[str]]], rules: Rules = "2.0") -> AnswerScores:
    """The scores of a data set: of each question the answer given, "" for none, and the gold answers. Raises
    ValueError for an empty list of questions."""
    scored = [(exact_match(said, gold, rules), word_f1(said, gold, rules)) for said, gold in answers]
    if not scored:
        raise ValueError("the list of questions is empty")
    match, f1 = (100 * sum(column) / len(scored) for column in zip(*scored, strict=True))
    return AnswerScores(match, f1)


def exact_match(said: str, gold: Sequence[str], rules: Rules = "2.0") -> float:
    """1 if an answer is one of the gold answers, else 0. Without gold answers, "" is right."""
    return float(normal(said) in _normal_gold(gold, rules))


def word_f1(said: str, gold: Sequence[str], rules: Rules = "2.0") -> float:
    """Harmonic mean of the precision and recall of words, for the gold answer that fits best."""
    words = normal(said).split()
    return max(_word_f1(words, each.split(), rules) for each in _normal_gold(gold, rules))


def normal(text: str) -> str:
    """
    >>> normal("The  Gate, and a turbine!")
    'gate and turbine'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _normal_gold(gold: Sequence[str], rules: Rules) -> Sequence[str]:
    normalised = [normal(each) for each in gold]
    return (normalised if rules == "1.1" else list(filter(None, normalised))) or [""]


def _word_f1(said: list[str], gold: list[str], rules: Rules) -> float:
    if not said or not gold:
        return float(rules == "2.0" and said == gold)
    both = sum((Counter(said) & Counter(gold)).values())
    return 2 * both / (len(said) + len(gold))
