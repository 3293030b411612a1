"""Evaluations of a stream of text: the likelihood of each token, and metrics whose names carry the convention.

`wikitext2.word_perplexity@raw-disjoint-256` means: the raw text as one stream, disjoint windows of 256 tokens, words
counted as lm-evaluation-harness counts them. lm-evaluation-harness itself removes WikiText's token spacing first and
scores article by article, so its result differs.

Shape suffixes: N tokens of a stream, K samples, which are its documents or windows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.config import WIKITEXT2_SHA256
from penstock.eval_suite.likelihood import window_convention
from penstock.eval_suite.metrics import (
    bits_per_byte,
    bits_per_byte_standard_error,
    count_words,
    perplexity,
)
from penstock.eval_suite.prompts import refuse_limit, refuse_shots
from penstock.eval_suite.sources import hub_rows, local_file, read_text
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
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import Problem, ProblemError

BITS_PER_BYTE = Estimate("nll", "bytes", scale=1 / math.log(2))
WIKITEXT2_REPOSITORY = "Salesforce/wikitext"


class Heldout:
    """`heldout.bits_per_byte` and `heldout.token_perplexity` on the tokens that the run held out."""

    def __init__(self, stride: int | None = None, max_tokens: int | None = None) -> None:
        self.stride = stride
        self.max_tokens = max_tokens

    def items(self, context: TaskContext) -> Iterator[Item]:
        """Raises `ProblemError` if the run has no held-out tokens."""
        refuse_shots(context, "heldout")
        refuse_limit(context, "heldout", "max_tokens")
        require_stride(self.stride, context)
        if context.heldout is None or len(context.heldout) < 2:
            raise ProblemError(
                Problem("no-heldout", "the run has no held-out tokens", "task 'heldout'", "set a held-out share")
            )
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
                f"heldout.token_perplexity@{convention}": _perplexity(scores, "tokens"),
            },
            details_of(scores),
            estimates={
                f"heldout.bits_per_byte@{convention}": BITS_PER_BYTE,
                f"heldout.token_perplexity@{convention}": Estimate("nll", "tokens", exponential=True),
            },
        )


class WikiText2:
    """Bits per raw byte, word perplexity and token perplexity on the test split of WikiText-2."""

    def __init__(
        self,
        path: str | Path | None = None,
        stride: int | None = None,
        max_bytes: int | None = None,
        sha256: str = WIKITEXT2_SHA256,
    ) -> None:
        self.path = None if path is None else expanded(path)
        self.stride = stride
        self.max_bytes = max_bytes
        self.sha256 = sha256

    def items(self, context: TaskContext) -> Iterator[Item]:
        """Raises `ProblemError` if there is no text, if it is another text than `sha256` says, and if the tokenizer
        does not keep every byte of it."""
        refuse_shots(context, "wikitext2")
        refuse_limit(context, "wikitext2", "max_bytes")
        require_stride(self.stride, context)
        path = local_file(self.path, context, "wikitext2/wiki.test.raw")
        whole = _from_hub() if path is None else read_text(path)
        _require_hash(whole, self.sha256, WIKITEXT2_REPOSITORY if path is None else str(path))
        text = whole if self.max_bytes is None else _first_lines(whole, self.max_bytes)
        token_N = np.asarray(context.tokenizer.encode(text), dtype=np.int64)
        byte_N = bytes_of_tokens(context.tokenizer, token_N, text)
        cut_at = len(text.encode()) if len(text) < len(whole) else 0
        stream = Stream(token_N, byte_N[1:], count_words(text), cut_at)
        yield Item("wiki.test.raw", stream)

    def requests(self, item: Item, context: TaskContext) -> Sequence[Rolling]:
        return [Rolling(item.document.token_N, context.sequence_length, self.stride)]

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        return item.document.samples(answers, context.sequence_length)

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        cut_at = int(scores["cut_at"][0])
        cut = f"first-{cut_at}-bytes-" if cut_at else ""
        other = "" if self.sha256 == WIKITEXT2_SHA256 else f"{self.sha256[:8]}-"
        convention = f"raw-{other}{cut}{window_convention(context.sequence_length, self.stride)}"
        return TaskResult(
            {
                f"wikitext2.bits_per_byte@{convention}": stream_bits_per_byte(scores),
                f"wikitext2.word_perplexity@{convention}": _perplexity(scores, "words"),
                f"wikitext2.token_perplexity@{convention}": _perplexity(scores, "tokens"),
            },
            {**details_of(scores), "words": round(float(scores["words"].sum()))},
            estimates={
                f"wikitext2.bits_per_byte@{convention}": BITS_PER_BYTE,
                f"wikitext2.word_perplexity@{convention}": Estimate("nll", "words", exponential=True),
                f"wikitext2.token_perplexity@{convention}": Estimate("nll", "tokens", exponential=True),
            },
        )


@dataclass(frozen=True, slots=True)
class Stream:
    """Tokens [N], and the bytes [N - 1] of all but the first token, which is context only and does not count.

    `words` are those of the whole text. `cut_at` is its number of bytes if it is the beginning of a longer text, and 0
    otherwise.
    """

    token_N: NDArray[Any]
    byte_N: NDArray[np.int64]
    words: int = 0
    cut_at: int = 0

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
        same = {"documents": float(documents), "cut_at": float(self.cut_at)}
        return [dict(zip(columns, values, strict=True)) | same for values in zip(*columns.values(), strict=True)]


def stream_bits_per_byte(scores: Mapping[str, Array]) -> float:
    byte_count = int(scores["bytes"].sum())
    return bits_per_byte(scores["nll"], byte_count) if byte_count else math.inf  # resampled documents may be empty


def _perplexity(scores: Mapping[str, Array], unit: str) -> float:
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


def require_stride(stride: int | None, context: TaskContext) -> None:
    """Raises `ProblemError` for a stride that leaves tokens between windows unscored."""
    if stride is not None and stride > context.sequence_length:
        what = f"a stride of {stride} is longer than the sequence length {context.sequence_length}"
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


def _require_hash(text: str, expected: str, where: str) -> None:
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != expected:
        what = f"not the test split of WikiText-2: the SHA-256 of the text is {found[:12]}..., not {expected[:12]}..."
        fix = "take wiki.test.raw of wikitext-2-raw-v1; the task `text` scores any text"
        raise ProblemError(Problem("wrong-text", what, where, fix))


def _from_hub() -> str:
    rows = hub_rows(WIKITEXT2_REPOSITORY, "wikitext-2-raw-v1", "test", "wiki.test.raw")
    return join_hub_rows([row["text"] for row in rows])


def join_hub_rows(rows: list[str]) -> str:
    """`wiki.test.raw`, byte for byte: the hub's rows are its lines, except that blank lines lost their space."""
    return "".join(row or " \n" for row in rows)


def _first_lines(text: str, max_bytes: int) -> str:
    """As many whole lines as fit; a line that does not fit at all is cut between characters."""
    head = text.encode()[:max_bytes].decode("utf-8", errors="ignore")
    return head if len(head) == len(text) or "\n" not in head else head[: head.rindex("\n") + 1]
