"""How a model writes: several texts after each prompt, how varied they are, how much they repeat, how long they are,
and how likely the model itself finds them.

`quality.distinct_2@4-samples-128-tokens-temperature-0.8` means: of all pairs of words in the four texts after a prompt,
of at most 128 tokens each, the share of different ones. Figures are ratios of sums over all prompts, and intervals are
over prompts. No figure is good or bad by itself: compare models with the same settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from penstock.eval_suite.diversity import grams, longest_repeated, require_bleu, self_bleu
from penstock.eval_suite.examples import convention, prompt_text, require_room
from penstock.eval_suite.prompts import first_token, refuse_shots, sample_seed
from penstock.eval_suite.sources import local_rows, some_rows, texts_of
from penstock.hooks.contracts import (
    Answer,
    Array,
    Estimate,
    Generate,
    GenerateAnswer,
    Item,
    Likelihood,
    LikelihoodAnswer,
    TaskContext,
    TaskResult,
)
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import Problem, ProblemError

DISTINCT = (1, 2, 3)
REPEATED = (2, 3, 4)


class Quality:
    """Free generation from prompts; see the module."""

    def __init__(
        self,
        prompts: Sequence[str] = (),
        path: str | Path | None = None,
        column: str = "prompt",
        samples: int = 4,
        tokens: int = 128,
        temperature: float = 0.8,
        self_bleu: bool = True,
    ) -> None:
        self._prompts = prompts
        self._path = None if path is None else expanded(path)
        self._column = column
        self._samples = samples
        self._tokens = tokens
        self._temperature = temperature
        self._bleu = self_bleu and samples > 1

    def items(self, context: TaskContext) -> Iterator[Item]:
        """One item a prompt. Raises `ProblemError` if no prompt is given, if a prompt is too long, and if a package is
        missing."""
        refuse_shots(context, "quality")
        require_room(context, self._tokens, "quality")
        if self._bleu:
            require_bleu()
        for number, (where, prompt) in enumerate(self._named_prompts(context), 1):
            self._require_short(prompt, where, context)
            yield Item(str(number), prompt, group=str(number))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Generate]:
        prompt = _prompt_tokens(item.document, context)
        return [
            Generate(prompt, self._tokens, (), self._temperature, sample_seed(context.seed, item.id, sample))
            for sample in range(self._samples)
        ]

    def follow_ups(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Likelihood]:
        """How likely the model finds each of its texts, where there is one."""
        prompt = _prompt_tokens(item.document, context)
        return [Likelihood(prompt, each.tokens) for each in cast("Sequence[GenerateAnswer]", answers) if each.tokens]

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        """One sample a text. What is counted over all texts of the prompt is shared equally among them."""
        written = [answer for answer in answers if isinstance(answer, GenerateAnswer)]
        nats = iter(answer.nll for answer in answers if isinstance(answer, LikelihoodAnswer))
        texts = [answer.text for answer in written]
        shared = _distinct([text.split() for text in texts])
        bleu = self_bleu(texts) if self._bleu else [0.0] * len(texts)
        return [
            {
                **shared,
                **_repeated(answer.text.split()),
                "self_bleu": alike,
                "nll": next(nats) if answer.tokens else 0.0,
                "tokens": float(len(answer.tokens)),
                "words": float(len(answer.text.split())),
            }
            for answer, alike in zip(written, bleu, strict=True)
        ]

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        estimates = self._estimates()
        how = f"{self._samples}-samples-{self._tokens}-tokens-temperature-{self._temperature:g}{convention(context)}"
        return TaskResult(
            {f"quality.{name}@{how}": _value(estimate, scores) for name, estimate in estimates.items()},
            estimates={f"quality.{name}@{how}": estimate for name, estimate in estimates.items()},
        )

    def _estimates(self) -> dict[str, Estimate]:
        """How each metric comes from the columns of the scores."""
        return {
            **{f"distinct_{n}": Estimate(f"distinct_{n}", f"all_{n}") for n in DISTINCT},
            **{f"repetition_{n}": Estimate(f"repeated_{n}", f"own_{n}") for n in REPEATED},
            "longest_repetition": Estimate("longest"),
            **({"self_bleu": Estimate("self_bleu")} if self._bleu else {}),
            "perplexity": Estimate("nll", "tokens", exponential=True),
            "tokens": Estimate("tokens"),
            "words": Estimate("words"),
        }

    def _named_prompts(self, context: TaskContext) -> Iterator[tuple[str, str]]:
        """The task's own prompts, those of its file, or those of the run's config, each with its place."""
        if self._path is not None:
            yield from texts_of(some_rows(local_rows(self._path), str(self._path)), self._column)
            return
        prompts = self._prompts or context.prompts
        if not prompts:
            fix = "set `prompts` or `path` of the task: --task '{use: quality, path: prompts.jsonl}'"
            raise ProblemError(Problem("no-items", "no prompt is given", "task 'quality'", fix))
        yield from ((f"prompt {number}", prompt) for number, prompt in enumerate(prompts, 1))

    def _require_short(self, prompt: str, where: str, context: TaskContext) -> None:
        length = len(_prompt_tokens(prompt, context))
        if length + self._tokens > context.sequence_length:
            what = f"{length} tokens and {self._tokens} new ones, but the model reads {context.sequence_length} at once"
            raise ProblemError(Problem("too-long", what, where, "shorten it, or set fewer `tokens` of the task"))


def _prompt_tokens(prompt: str, context: TaskContext) -> list[int]:
    """A text begins with the token that ends texts, as documents did in training; a chat as its template says."""
    if context.chat is not None:
        return context.chat.encode(prompt_text(prompt, (), context))
    return [first_token(context.tokenizer), *context.tokenizer.encode(prompt)]


def _distinct(texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """For a text's share of the prompt: different runs of n words among all texts, and all runs."""
    counted: dict[str, float] = {}
    for n in DISTINCT:
        runs = [run for words in texts for run in grams(words, n)]
        counted |= {f"distinct_{n}": len(set(runs)) / len(texts), f"all_{n}": len(runs) / len(texts)}
    return counted


def _repeated(words: Sequence[str]) -> dict[str, float]:
    """Runs of n words in one text that come again, and all of them; and the longest run that does."""
    counted = {"longest": float(longest_repeated(words))}
    for n in REPEATED:
        runs = grams(words, n)
        counted |= {f"repeated_{n}": float(len(runs) - len(set(runs))), f"own_{n}": float(len(runs))}
    return counted


def _value(estimate: Estimate, scores: Mapping[str, Array]) -> float:
    """Sum over sum; 0 where nothing is counted, such as pairs in texts of one word."""
    total = float(scores[estimate.total].sum())
    weight = float(len(scores[estimate.total]) if estimate.weight is None else scores[estimate.weight].sum())
    ratio = total / weight if weight else 0.0
    return (math.exp(ratio) if ratio < 700 else math.inf) if estimate.exponential else ratio
