"""From requests of the harness, which are texts, to requests in tokens, and from their answers back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from penstock.eval_suite.examples import prompt_tokens
from penstock.eval_suite.prompts import continuation, first_token
from penstock.hooks.contracts import (
    Answer,
    Generate,
    GenerateAnswer,
    Likelihood,
    LikelihoodAnswer,
    Request,
    TaskContext,
)
from penstock.hooks.problems import Problem, ProblemError

NEW_TOKENS = 256
"""Tokens to generate where a task sets no number: the harness's default for models of transformers."""


def requests_of(instance: Any, context: TaskContext) -> list[Request]:
    """What a model is asked for one request of the harness."""
    match instance.request_type:
        case "loglikelihood":
            before, text = instance.args[:2]
            return [likelihood_of(before, text, context)]
        case "loglikelihood_rolling":
            return [*_windows(instance.args[0], context)]
        case _:
            prompt, settings = instance.args[:2]
            return [*generations_of(prompt, settings, instance.repeats or 1, context)]


def results_of(instance: Any, answers: Sequence[Answer]) -> list[Any]:
    """The answers as the harness wants them: one for each time that it asked."""
    match instance.request_type:
        case "loglikelihood":
            (answer,) = cast("Sequence[LikelihoodAnswer]", answers)
            return [(-answer.nll, answer.likeliest)] * (instance.repeats or 1)
        case "loglikelihood_rolling":
            windows = cast("Sequence[LikelihoodAnswer]", answers)
            return [-math.fsum(window.nll for window in windows)] * (instance.repeats or 1)
        case _:
            return [answer.text for answer in cast("Sequence[GenerateAnswer]", answers)]


def likelihood_of(before: str, text: str, context: TaskContext) -> Likelihood:
    """Without a context, the text is read after the end of a text, unless it begins with one itself."""
    asked = continuation(context.tokenizer, before, text)
    if not before and asked.continuation[:1] == [*asked.context]:
        return Likelihood(asked.continuation[:1], asked.continuation[1:])
    return asked


def _windows(text: str, context: TaskContext) -> Iterator[Likelihood]:
    """Disjoint windows as in the harness: the first one begins with the end of a text, and the last one is full, so
    that it sees tokens that the one before has scored."""
    tokens, most = [first_token(context.tokenizer), *context.tokenizer.encode(text)], context.sequence_length
    for start in range(0, len(tokens) - 1, most):
        end = min(start + most, len(tokens) - 1)
        yield Likelihood(tokens[max(0, end - most) : start + 1], tokens[start + 1 : end + 1])


def generations_of(prompt: str, settings: Any, repeats: int, context: TaskContext) -> Iterator[Generate]:
    """As often as the task wants a text, each drawn with a seed of its own where the task draws at all. Raises
    `ProblemError` for settings of the draw that nothing here follows."""
    from lm_eval.models.utils import normalize_gen_kwargs

    kwargs: dict[str, Any] = {**normalize_gen_kwargs(settings, NEW_TOKENS)}
    temperature = float(kwargs.get("temperature", 1.0)) if kwargs.get("do_sample") else 0.0
    _require_plain(kwargs, temperature)
    until = kwargs.get("until") or []
    stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    tokens = prompt_tokens(prompt, context)
    for number in range(repeats):
        yield Generate(tokens, kwargs["max_gen_toks"], stop, temperature, context.seed + number if temperature else 0)


def _require_plain(kwargs: Mapping[str, Any], temperature: float) -> None:
    neutral = {"num_beams": 1, "top_p": 1, **({"top_k": 0, "min_p": 0} if temperature else {})}
    asked = [f"{name}={kwargs[name]}" for name, value in neutral.items() if kwargs.get(name) not in (None, value)]
    if asked and (temperature or kwargs.get("num_beams") not in (None, 1)):
        what = f"the task generates with {', '.join(asked)}, but texts are drawn by temperature alone"
        raise ProblemError(Problem("bad-task", what, "generation_kwargs", "leave it out in a YAML of your own"))
