"""Tasks that break one law each. What contract 1 alone can break, tasks of that contract break."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from broken import task_itself
from broken.described import described
from penstock.conformance.laws import task_itself as laws_of_contract_1
from penstock.hooks import Problem, ProblemError
from penstock.hooks.contracts import Estimate, Item, Rolling, TaskContext, TaskResult

BITS = "broken.bits_per_byte@disjoint"


class Good:
    """Bits per byte of the held-out tokens, in disjoint windows, each of which is a sample."""

    def items(self, context: TaskContext) -> Iterator[Item]:
        if self.refuses(context):
            raise ProblemError(Problem("no-shots", "the task shows no examples"))
        if context.heldout is None or len(context.heldout) < 2:
            raise ProblemError(Problem("no-heldout", "the run has no held-out tokens"))
        windows = self.windows(self.tokens(context.heldout), context.sequence_length)
        yield from (Item(identity, window) for identity, window in zip(self.ids(len(windows)), windows, strict=True))

    def refuses(self, context: TaskContext) -> bool:
        return bool(context.shots)

    def tokens(self, heldout: Any) -> Any:
        return np.array(heldout, dtype=np.int64)

    def windows(self, token_N: Any, length: int) -> list[Any]:
        return [token_N[start : start + length + 1] for start in range(0, len(token_N) - 1, length)]

    def ids(self, count: int) -> Sequence[str]:
        return list(map(str, range(count)))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Any]:
        return [Rolling(item.document, context.sequence_length)]

    def score(self, item: Item, answers: Sequence[Any], context: TaskContext) -> Sequence[Mapping[str, float]]:
        return [{"nll": float(answers[0].nll_N.sum()), "tokens": float(len(answers[0].nll_N))}]

    def total(self, scores: Mapping[str, Any], context: TaskContext) -> Any:
        nll = self.nats(scores["nll"].sum() / scores["tokens"].sum())
        return self.result(
            {BITS: nll / math.log(2), "broken.token_perplexity@disjoint": math.exp(nll)},
            scores,
        )

    def nats(self, nll: float) -> float:
        return float(nll)

    def result(self, metrics: dict[str, Any], scores: Mapping[str, Any]) -> Any:
        return TaskResult(metrics, {"windows": 1})


class Nameless(Good):
    def ids(self, count: int) -> Sequence[str]:
        return ["window"] * count


class Renumbering(Good):
    """Gives an item another id each time."""

    given = itertools.count()

    def ids(self, count: int) -> Sequence[str]:
        return [str(next(self.given)) for _ in range(count)]


class Floating(Good):
    def tokens(self, heldout: Any) -> Any:
        return np.array(heldout, dtype=np.float64)


class Uneven(Good):
    def score(self, item: Item, answers: Sequence[Any], context: TaskContext) -> Sequence[Mapping[str, float]]:
        first = {"first": 1.0} if item.id == "0" else {}
        return [{**sample, **first} for sample in super().score(item, answers, context)]


class Dictionary(Good):
    def result(self, metrics: dict[str, Any], scores: Mapping[str, Any]) -> Any:
        return metrics


class Undefined(Good):
    def result(self, metrics: dict[str, Any], scores: Mapping[str, Any]) -> Any:
        return super().result({**metrics, "broken.recall@disjoint": math.nan}, scores)


class Pathological(Good):
    def result(self, metrics: dict[str, Any], scores: Mapping[str, Any]) -> Any:
        return TaskResult(metrics, {"report": Path("report.html")})


class Bare(Good):
    def result(self, metrics: dict[str, Any], scores: Mapping[str, Any]) -> Any:
        return super().result({name.partition("@")[0]: value for name, value in metrics.items()}, scores)


class Ranking(Good):
    """Adds the number of the run, which is another one each time."""

    runs = itertools.count()

    def result(self, metrics: dict[str, Any], scores: Mapping[str, Any]) -> Any:
        return super().result({**metrics, "broken.number@runs": float(next(self.runs))}, scores)


class Leading(Good):
    """Says whether the first window is the longest."""

    def result(self, metrics: dict[str, Any], scores: Mapping[str, Any]) -> Any:
        longest = float(np.argmax(scores["tokens"]) == 0)
        return super().result({**metrics, "broken.longest@first": longest}, scores)


class Counting(Good):
    """Names a metric by the number of different windows."""

    def result(self, metrics: dict[str, Any], scores: Mapping[str, Any]) -> Any:
        return super().result({**metrics, f"broken.all@{len(np.unique(scores['nll']))}": 1.0}, scores)


class Misestimating(Good):
    """Says that bits per byte are a ratio of nats."""

    def total(self, scores: Mapping[str, Any], context: TaskContext) -> Any:
        return replace(super().total(scores, context), estimates={BITS: Estimate("nll", "tokens")})


class Unseeing(Good):
    """Takes any number of shots and shows none."""

    def refuses(self, context: TaskContext) -> bool:
        return False


class Seeding(Good):
    def tokens(self, heldout: Any) -> Any:
        random.seed(0)
        return super().tokens(heldout)


class GradientsOff(Good):
    def tokens(self, heldout: Any) -> Any:
        torch.set_grad_enabled(False)
        return super().tokens(heldout)


class Direct(Good):
    def tokens(self, heldout: Any) -> Any:
        if heldout.dtype != np.int64:
            raise RuntimeError("indices must be int64")
        return super().tokens(heldout)


class Masking(Good):
    def tokens(self, heldout: Any) -> Any:
        token_N = super().tokens(heldout)
        if heldout.flags.writeable:
            heldout[0] = 0
        return token_N


class Needy(Good):
    def items(self, context: TaskContext) -> Iterator[Item]:
        if context.heldout is None:
            raise TypeError("object of type 'NoneType' has no len()")
        return super().items(context)


class Nats(Good):
    def result(self, metrics: dict[str, Any], scores: Mapping[str, Any]) -> Any:
        return super().result({**metrics, BITS: metrics[BITS] * math.log(2)}, scores)


class UpsideDown(Good):
    """Takes what is likely for unlikely."""

    def nats(self, nll: float) -> float:
        return 2 * math.log(256) - float(nll)


class Gaps(Good):
    """Scores no token that begins a window."""

    def windows(self, token_N: Any, length: int) -> list[Any]:
        return [token_N[start : start + length] for start in range(0, len(token_N) - 1, length)]


of = partial(described("task", "A task that breaks one law", frozenset({"every-token"})), contract=2)
GOOD = of(Good)
EARLIER = {1: task_itself}
BROKEN = {
    **{law.id: task_itself.BROKEN[law.id] for law in laws_of_contract_1.LAWS},
    "task/items-have-ids-of-their-own": of(Nameless),
    "task/the-same-is-asked-each-time": of(Renumbering),
    "task/requests-are-of-tokens": of(Floating),
    "task/samples-have-the-same-names": of(Uneven),
    "task/the-result-is-a-task-result": of(Dictionary),
    "task/metrics-are-finite-floats": of(Undefined),
    "task/details-can-be-written": of(Pathological),
    "task/the-same-model-has-the-same-metrics": of(Ranking),
    "task/no-global-random-numbers-are-drawn": of(Seeding),
    "task/torch-keeps-its-settings": of(GradientsOff),
    "task/heldout-tokens-are-left-alone": of(Masking),
    "task/tokens-of-any-type-are-read": of(Direct),
    "task/nothing-held-out-is-answered-or-refused": of(Needy),
    "task/a-uniform-model-has-the-figures-of-its-vocabulary": of(Nats),
    "task/a-model-that-knows-the-text-scores-better": of(UpsideDown),
    "task/the-sequence-length-moves-no-token": of(Gaps),
    "task/metrics-name-their-convention": of(Bare),
    "task/the-order-of-samples-does-not-matter": of(Leading),
    "task/samples-drawn-anew-have-the-same-metrics": of(Counting),
    "task/an-estimate-is-its-metric": of(Misestimating),
    "task/shots-are-shown-or-refused": of(Unseeing),
}
