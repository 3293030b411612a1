"""The questions that a model answers worst, as text, and how far its confidence is a probability.

Shape suffixes: N samples, K bins.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.answers import AnswerStore
from penstock.eval_suite.runner import Answered, Prepared
from penstock.hooks.contracts import (
    Answer,
    Generate,
    GenerateAnswer,
    Likelihood,
    LikelihoodAnswer,
    Request,
    Rolling,
    RollingAnswer,
    Tokenizer,
)
from penstock.run.records.evaluation import Question, Reliability, ReliabilityBin

WORST = 10
PROMPT_SHOWN, ANSWER_SHOWN = 600, 300  # characters
BINS = 10
"""Bins of equal width, as Guo et al. 2017 (arXiv 1706.04599) draw reliability diagrams."""
RIGHT, CONFIDENCE = "right", "confidence"
"""Columns of scores: whether an answer is right (0 or 1), and the probability that the model gives it."""

Badness: TypeAlias = "tuple[float, ...]"


def worst_of(task: Prepared, answers: AnswerStore) -> list[Question]:
    """Wrong answers, the most confident first; where nothing is right or wrong, the texts of the most nats a byte. An
    item of several samples counts by its worst."""
    ranked = (
        (badness, -place, each)
        for place, each in enumerate(task.answered(answers))
        if (badness := max(map(_badness, each.samples), default=())) > ()
    )
    chosen = heapq.nlargest(WORST, ranked, key=lambda entry: entry[:2])
    telling = telling_scores(task, answers)
    return [question_of(each, task.context.tokenizer, telling) for _, _, each in chosen]


def telling_scores(task: Prepared, answers: AnswerStore) -> set[str]:
    """The scores that say something of a question: those that metrics are estimates of, and any that is not the same
    for all. The others are a task's own notes, such as the number of examples and the hash of its data."""
    scores = task.scored(answers).scores
    estimates = task.task.total(scores, task.context).estimates.values()
    named = {RIGHT, CONFIDENCE, *(each.total for each in estimates)}
    return {name for name, score_N in scores.items() if name in named or len(np.unique(score_N)) > 1}


def _badness(sample: Mapping[str, float]) -> Badness:
    """Larger is worse; empty where the sample does not say, and for a right answer."""
    if RIGHT in sample:
        if sample[RIGHT] >= 1:
            return ()
        return (1 - sample[RIGHT], sample.get(CONFIDENCE, sample.get("nll", 0.0)))
    size = sample.get("bytes") or sample.get("tokens")
    return (sample["nll"] / size,) if "nll" in sample and size else ()


def question_of(each: Answered, tokenizer: Tokenizer, telling: Collection[str]) -> Question:
    """An item as text, with the scores that are `telling`."""
    means = {name: value for name, value in _mean(each.samples).items() if name in telling}
    scores = {name: value if math.isfinite(value) else None for name, value in means.items()}
    first = next(iter(each.requests), None)
    return Question(
        id=each.item.id,
        prompt="" if first is None else prompt_text(first, tokenizer)[-PROMPT_SHOWN:],
        answers=[
            answer_text(request, answer, tokenizer)[:ANSWER_SHOWN]
            for request, answer in zip(each.requests, each.answers, strict=True)
        ],
        scores=scores,
        group=each.item.group,
        gold=gold_text(each),
    )


def prompt_text(request: Request, tokenizer: Tokenizer) -> str:
    """What the model reads before it answers; of a stream, the stream."""
    match request:
        case Likelihood():
            return tokenizer.decode(request.context)
        case Generate():
            return tokenizer.decode(request.prompt)
        case Rolling():
            return tokenizer.decode([int(token) for token in request.token_N])


def answer_text(request: Request, answer: Answer, tokenizer: Tokenizer) -> str:
    """What was asked for, and the answer."""
    match request, answer:
        case Likelihood(), LikelihoodAnswer():
            first = ", first choice" if answer.likeliest else ""
            return f"{tokenizer.decode(request.continuation)!r}: {answer.nll:.4f} nats{first}"
        case Generate(), GenerateAnswer():
            return answer.text
        case Rolling(), RollingAnswer():
            return f"{len(answer.nll_N):,} tokens: {float(answer.nll_N.mean()):.4f} nats a token"
    raise TypeError(f"{type(answer).__name__} is no answer to {type(request).__name__}")


def gold_text(each: Answered) -> str | None:
    """The right answer, where it is text, has a `text`, or is a number; none of a stream, which nobody asks."""
    gold = each.item.gold
    if any(isinstance(request, Rolling) for request in each.requests):
        return None
    if isinstance(text := getattr(gold, "text", None), str):
        return text
    if isinstance(gold, str | int | float) and not isinstance(gold, bool):
        return str(gold)
    if isinstance(gold, list | tuple) and gold and all(isinstance(each, str) for each in gold):
        return " | ".join(gold)
    return None


def reliability_of(task: Prepared, answers: AnswerStore) -> Reliability | None:
    """The reliability of a task's answers; None for a task whose samples have no confidence."""
    scores = task.scored(answers).scores
    if RIGHT not in scores or CONFIDENCE not in scores:
        return None
    return reliability(scores[CONFIDENCE], scores[RIGHT])


def reliability(confidence_N: NDArray[np.float64], right_N: NDArray[np.float64]) -> Reliability:
    """Bins of equal width, those without answers left out, and the expected calibration error.

    >>> found = reliability(np.array([0.95, 0.91, 0.55]), np.array([1.0, 0.0, 1.0]))
    >>> [(each.low, each.answers, each.right) for each in found.bins], round(found.expected_calibration_error, 4)
    ([(0.5, 1, 1.0), (0.9, 2, 0.5)], 0.4367)
    """
    bin_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
    bins = [
        ReliabilityBin(
            low=k / BINS,
            high=(k + 1) / BINS,
            answers=int((bin_N == k).sum()),
            confidence=float(confidence_N[bin_N == k].mean()),
            right=float(right_N[bin_N == k].mean()),
        )
        for k in range(BINS)
        if (bin_N == k).any()
    ]
    error = sum(each.answers * abs(each.confidence - each.right) for each in bins) / len(confidence_N)
    return Reliability(error, bins)


def _mean(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over an item's samples."""
    return {name: float(np.mean([sample[name] for sample in samples])) for name in samples[0]} if samples else {}
