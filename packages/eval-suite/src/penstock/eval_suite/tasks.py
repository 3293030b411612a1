"""Evaluations of a stream of text: the likelihood of each token, and metrics whose names carry the convention.

Shape suffixes: N tokens of a stream, K samples, which are its documents or windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.likelihood import window_convention
from penstock.eval_suite.metrics import (
    bits_per_byte,
    bits_per_byte_standard_error,
    perplexity,
)
from penstock.eval_suite.prompts import refuse_limit, refuse_shots
from penstock.hooks.contracts import (
    Answer,
    Array,
    Estimate,
    Item,
    Rolling,
    RollingAnswer,
    TaskContext,
    TaskResult,
    Tokenizer,
)
from penstock.hooks.problems import Problem, ProblemError

BITS_PER_BYTE = Estimate("nll", "bytes", scale=1 / math.log(2))


class Heldout:
    """`heldout.bits_per_byte` and `heldout.token_perplexity` on the tokens that the run held out."""

    def __init__(self, stride: int | None = None, max_tokens: int | None = None) -> None:
        self.stride = stride
        self.max_tokens = max_tokens

    def items(self, context: TaskContext) -> Iterator[Item]:
        """Raises `ProblemError` if the run has no held-out tokens."""
        refuse_shots(context, "heldout")
        refuse_limit(context, "heldout", "max_tokens")
        require_stride(self.stride, context.sequence_length)
        if context.heldout is None or len(context.heldout) < 2:
            what, fix = "the model has no held-out tokens", "name another task, or prepare data with a held-out share"
            raise ProblemError(Problem("no-heldout", what, "task 'heldout'", fix))
        token_N = np.asarray(context.heldout)[: self.max_tokens]
        yield Item("heldout", Stream(token_N, context.tokenizer.byte_lengths()[token_N[1:]]))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Rolling]:
        return [Rolling(item.document.token_N, context.sequence_length, self.stride)]

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        return item.document.samples(answers, context.sequence_length)

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        held = 0 if context.heldout is None else len(context.heldout)
        cut = f"first-{self.max_tokens}-tokens-" if self.max_tokens is not None and self.max_tokens < held else ""
        convention = cut + window_convention(context.sequence_length, self.stride)
        return TaskResult(
            {
                f"heldout.bits_per_byte@{convention}": stream_bits_per_byte(scores),
                f"heldout.token_perplexity@{convention}": stream_perplexity(scores, "tokens"),
            },
            details_of(scores),
            estimates={
                f"heldout.bits_per_byte@{convention}": BITS_PER_BYTE,
                f"heldout.token_perplexity@{convention}": Estimate("nll", "tokens", exponential=True),
            },
        )


@dataclass(frozen=True, slots=True)
class Stream:
    """Tokens [N], and the bytes [N - 1] of all but the first token, which is context only and does not count.

    `words` are those of the whole text.
    """

    token_N: NDArray[Any]
    byte_N: NDArray[np.int64]
    words: int = 0

    def blocks(self, window: int) -> tuple[NDArray[np.int64], bool]:
        """The number of the sample of each token after the first, [N - 1], and whether samples are documents. They are
        roughly independent: documents (which end with a token without bytes, such as end of text), or windows if there
        is only one document."""
        ends_N = self.byte_N == 0
        document_N = np.cumsum(ends_N) - ends_N  # a token that ends a document belongs to it
        documents = bool(document_N[-1] != document_N[0])
        _, block_N = np.unique(document_N if documents else np.arange(len(ends_N)) // window, return_inverse=True)
        return block_N, documents

    def samples(self, answers: Sequence[Answer], window: int) -> Sequence[Mapping[str, float]]:
        """Sums over each of the `blocks`. Words are distributed over them in proportion to bytes, so that their sum is
        the text's."""
        (answer,) = cast("Sequence[RollingAnswer]", answers)
        block_N, documents = self.blocks(window)
        columns = {
            "nll": np.bincount(block_N, weights=answer.nll_N),
            "bytes": np.bincount(block_N, weights=self.byte_N),
            "tokens": np.bincount(block_N).astype(np.float64),
        }
        columns["words"] = columns["bytes"] * (self.words / max(1, int(self.byte_N.sum())))
        same = {"documents": float(documents)}
        return [dict(zip(columns, values, strict=True)) | same for values in zip(*columns.values(), strict=True)]


def require_two(token_N: NDArray[Any], where: str) -> None:
    """Raises `ProblemError` for a text in which nothing is predicted: the first token is context only."""
    if len(token_N) < 2:
        what = "the text has a single token, which is context only"
        raise ProblemError(Problem("bad-value", what, where, "use a longer text"))


def stream_bits_per_byte(scores: Mapping[str, Array]) -> float:
    byte_count = int(scores["bytes"].sum())
    return bits_per_byte(scores["nll"], byte_count) if byte_count else math.inf  # resampled documents may be empty


def stream_perplexity(scores: Mapping[str, Array], unit: str) -> float:
    return perplexity(scores["nll"], float(scores[unit].sum()))


def details_of(scores: Mapping[str, Array]) -> dict[str, Any]:
    """`standard_error` is that of bits per byte over the samples."""
    nll_K, byte_K = scores["nll"], scores["bytes"]
    return {
        "tokens": int(scores["tokens"].sum()),
        "bytes": int(byte_K.sum()),
        "standard_error": bits_per_byte_standard_error(nll_K, byte_K, np.arange(len(nll_K))),
        "standard_error_blocks": "documents" if scores["documents"][0] else "windows",
    }


def require_stride(stride: int | None, window: int) -> None:
    """Raises `ProblemError` for a stride that leaves tokens between windows unscored."""
    if stride is not None and stride > window:
        what = f"a stride of {stride} is longer than the sequence length {window}"
        raise ProblemError(Problem("bad-value", what, "stride", "tokens between two windows would never be scored"))


def bytes_of_tokens(tokenizer: Tokenizer, token_N: NDArray[np.int64], text: str) -> NDArray[np.int64]:
    """Bytes of the text that each of its tokens holds, int64 [N]; raises `ProblemError` if they do not hold every one.

    A llama2.c tokenizer puts a space before a text, and counts the space as a byte. The longest token loses that byte,
    because a token without bytes would look like the end of a document.
    """
    byte_N = tokenizer.byte_lengths()[token_N]
    kept, given = int(byte_N.sum()), len(text.encode())
    if kept == given + 1 and tokenizer.decode(token_N.tolist()) == text:
        byte_N[byte_N.argmax()] -= 1
    elif kept != given:
        what = f"the tokens contain {kept} bytes of a text of {given}, so bits per byte would be wrong"
        raise ProblemError(Problem("lossy-tokenizer", what, "tokenizer", "use a byte-level tokenizer"))
    return byte_N
