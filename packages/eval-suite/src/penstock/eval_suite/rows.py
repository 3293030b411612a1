"""From requests to the rows that a model computes, and from its outputs to answers.

A row is one line of a batch: a window of a stream, a context with its continuation, or a prompt. A request may need
several rows, and rows of different requests are computed together. The output of a row depends only on the model and
the row, so it can be stored under the row's hash: a model whose routers depend on the batch reads one row at a time.

Shape suffixes: S tokens of a row, N tokens of a stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.likelihood import windows
from penstock.hooks.contracts import (
    Answer,
    Generate,
    GenerateAnswer,
    Likelihood,
    LikelihoodAnswer,
    Request,
    Rolling,
    RollingAnswer,
    TaskContext,
    Tokenizer,
)
from penstock.hooks.problems import Problem, ProblemError

Output: TypeAlias = "NDArray[np.float64] | LikelihoodAnswer | list[int]"
"""For a window: nats of each scored token. For a continuation: its answer. For a prompt: the new tokens."""


@dataclass(frozen=True, slots=True)
class Row:
    """`token_S` is everything that the model reads, plus the target of the last position for the two scored kinds;
    `scored` is the first position whose target counts. `new_tokens` is the number of tokens to generate, at most: the
    likeliest ones up to one of the texts `stop`, or those that a generator of `seed` draws at a `temperature`."""

    kind: type[Request]
    token_S: NDArray[np.integer]
    scored: int = 0
    new_tokens: int = 0
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0

    def digest(self) -> str:
        """SHA-256 of everything that the output depends on, except the model."""
        head = f"{self.kind.__name__} {self.scored} {self.new_tokens} "
        if self.stop or self.temperature:
            head += f"{self.stop} {self.temperature} {self.seed} "
        return hashlib.sha256(head.encode() + self.token_S.astype("<i8").tobytes()).hexdigest()


def rows_of(request: Request, context: TaskContext, where: str) -> list[Row]:
    """The rows of a request; raises `ProblemError`, naming the item `where`, for a request that no model can answer."""
    match request:
        case Rolling():
            return _rolling_rows(request, context.sequence_length, where)
        case Likelihood():
            return [_likelihood_row(request, context.sequence_length, where)]
        case Generate():
            return [_generate_row(request, context.sequence_length, where)]


def answer_of(request: Request, outputs: Sequence[Any], tokenizer: Tokenizer) -> Answer:
    """The answer to a request, combined from the outputs of its rows."""
    match request:
        case Rolling():
            return RollingAnswer(np.concatenate(outputs))
        case Likelihood():
            (answer,) = outputs
            return answer
        case Generate():
            (tokens,) = outputs
            return GenerateAnswer(up_to(request.stop, tokenizer.decode(tokens)), tuple(tokens))


def is_cut(request: Request, context: TaskContext) -> bool:
    """Whether the request is longer than the model's window, so that its beginning is left out."""
    match request:
        case Rolling():
            return False
        case Likelihood():
            return len(request.context) + len(request.continuation) > context.sequence_length + 1
        case Generate():
            return len(request.prompt) + request.tokens > context.sequence_length


def _rolling_rows(request: Rolling, most: int, where: str) -> list[Row]:
    token_N, length, stride = np.asarray(request.token_N), request.sequence_length, request.stride
    if token_N.ndim != 1 or len(token_N) < 2:
        raise _bad_request(f"a stream has shape {token_N.shape}", where, "pass at least two tokens in one dimension")
    if not 1 <= (length if stride is None else stride) <= length:
        raise _bad_request(f"a stride of {stride} in windows of {length}", where, f"use a stride from 1 to {length}")
    if length > most:
        raise _bad_request(
            f"windows of {length} tokens, but the model reads {most} at once", where, "use shorter windows"
        )
    plan = windows(len(token_N) - 1, length, stride)
    return [Row(Rolling, token_N[each.start : each.end + 1], each.scored - each.start) for each in plan]


def _likelihood_row(request: Likelihood, sequence_length: int, where: str) -> Row:
    count = len(request.continuation)
    if not len(request.context) or not count:
        raise _bad_request("a context or a continuation is empty", where, "begin with the end-of-text token")
    if count > sequence_length:
        what = f"a continuation of {count} tokens is longer than the {sequence_length} tokens that the model reads"
        raise _bad_request(what, where, "use a shorter continuation")
    token_S = np.asarray([*request.context, *request.continuation], dtype=np.int64)[-sequence_length - 1 :]
    return Row(Likelihood, token_S, len(token_S) - 1 - count)


def _generate_row(request: Generate, sequence_length: int, where: str) -> Row:
    if not len(request.prompt):
        raise _bad_request("a prompt is empty", where, "begin with the end-of-text token")
    if not 1 <= request.tokens < sequence_length:
        what = f"{request.tokens} new tokens after a prompt, but the model reads {sequence_length} at once"
        raise _bad_request(what, where, f"request 1 to {sequence_length - 1}")
    token_S = np.asarray(request.prompt, dtype=np.int64)[request.tokens - sequence_length :]
    if request.temperature > 0:  # what is drawn does not depend on where the text is cut
        return Row(Generate, token_S, 0, request.tokens, temperature=request.temperature, seed=request.seed)
    return Row(Generate, token_S, 0, request.tokens, tuple(request.stop))


def _bad_request(what: str, where: str, fix: str) -> ProblemError:
    return ProblemError(Problem("bad-request", what, where, fix))


def up_to(stops: Sequence[str], text: str) -> str:
    """The text before the first of the stops."""
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]
