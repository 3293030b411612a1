"""Evaluations: a text, the model's likelihood of it, and figures whose names carry the convention.

`wikitext2.word_perplexity@raw-disjoint-256` is: the raw text as one stream, disjoint windows of 256 tokens, words
counted as lm-evaluation-harness counts them. lm-evaluation-harness itself removes WikiText's token spacing first and
scores article by article, so its figure is another one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.likelihood import token_nll, window_convention
from penstock.eval_suite.metrics import (
    bits_per_byte,
    bits_per_byte_standard_error,
    count_words,
    token_perplexity,
    word_perplexity,
)
from penstock.hooks.contracts import Array, LanguageModel, TaskResult, Tokenizer
from penstock.hooks.problems import Problem, ProblemError

WIKITEXT2_REPOSITORY = "Salesforce/wikitext"


class Heldout:
    """`heldout.bits_per_byte` and `heldout.token_perplexity` on the tokens that the run held out."""

    def __init__(self, stride: int | None = None, max_tokens: int | None = None) -> None:
        self.stride = stride
        self.max_tokens = max_tokens

    def run(
        self, model: LanguageModel, tokenizer: Tokenizer, *, heldout: Array | None, sequence_length: int
    ) -> TaskResult:
        """Raises `ProblemError` where the run held nothing out."""
        if heldout is None or len(heldout) < 2:
            raise ProblemError(
                Problem("no-heldout", "the run has no held-out tokens", "task 'heldout'", "prepare its data with some")
            )
        tokens = np.asarray(heldout)[: self.max_tokens]
        cut = f"first-{len(tokens)}-tokens-" if len(tokens) < len(heldout) else ""
        convention = cut + _convention(sequence_length, self.stride)
        scored = _Scored.of(model, tokenizer, tokens, sequence_length, self.stride)
        return TaskResult(
            {
                f"heldout.bits_per_byte@{convention}": scored.bits_per_byte(),
                f"heldout.token_perplexity@{convention}": token_perplexity(scored.nll_N),
            },
            scored.details(),
        )


class WikiText2:
    """Bits per raw byte, word perplexity and token perplexity on the test split of WikiText-2."""

    def __init__(self, path: str | Path | None = None, stride: int | None = None, max_bytes: int | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.stride = stride
        self.max_bytes = max_bytes

    def run(
        self, model: LanguageModel, tokenizer: Tokenizer, *, heldout: Array | None, sequence_length: int
    ) -> TaskResult:
        """Raises `ProblemError` where the text cannot be had or the tokenizer does not keep every byte of it."""
        whole = _from_hub() if self.path is None else _from_file(self.path)
        text = whole if self.max_bytes is None else _first_lines(whole, self.max_bytes)
        cut = f"first-{len(text.encode())}-bytes-" if len(text) < len(whole) else ""
        convention = f"raw-{cut}{_convention(sequence_length, self.stride)}"
        tokens = np.asarray(tokenizer.encode(text), dtype=np.int64)
        _check_lossless(tokenizer, tokens, text)
        scored = _Scored.of(model, tokenizer, tokens, sequence_length, self.stride)
        return TaskResult(
            {
                f"wikitext2.bits_per_byte@{convention}": scored.bits_per_byte(),
                f"wikitext2.word_perplexity@{convention}": word_perplexity(scored.nll_N, count_words(text)),
                f"wikitext2.token_perplexity@{convention}": token_perplexity(scored.nll_N),
            },
            {**scored.details(), "words": count_words(text)},
        )


class _Scored:
    """A stream's likelihoods. The first token is context only: neither it nor its bytes count."""

    def __init__(self, nll_N: NDArray[np.float64], bytes_N: NDArray[np.int64], seconds: float, window: int) -> None:
        self.nll_N = nll_N
        self.bytes_N = bytes_N
        self.seconds = seconds
        self.window = window

    @classmethod
    def of(
        cls, model: LanguageModel, tokenizer: Tokenizer, tokens: NDArray[Any], sequence_length: int, stride: int | None
    ) -> _Scored:
        bytes_N = _byte_lengths(tokenizer)[tokens[1:]]
        started = time.perf_counter()
        nll_N = token_nll(model, tokens, sequence_length=sequence_length, stride=stride)
        return cls(nll_N, bytes_N, time.perf_counter() - started, sequence_length)

    def bits_per_byte(self) -> float:
        return bits_per_byte(self.nll_N, int(self.bytes_N.sum()))

    def details(self) -> dict[str, Any]:
        """`standard_error` is that of bits per byte over documents (between tokens without bytes, such as end of text),
        or over windows where there is one document alone."""
        ends_N = self.bytes_N == 0
        document_N = np.cumsum(ends_N) - ends_N  # a token that ends a document belongs to it
        of_documents = bool(document_N[-1] != document_N[0])
        block_N = document_N if of_documents else np.arange(len(self.nll_N)) // self.window
        return {
            "tokens": len(self.nll_N),
            "bytes": int(self.bytes_N.sum()),
            "seconds": self.seconds,
            "standard_error": bits_per_byte_standard_error(self.nll_N, self.bytes_N, block_N),
            "standard_error_blocks": "documents" if of_documents else "windows",
        }


def _convention(sequence_length: int, stride: int | None) -> str:
    if stride is not None and stride > sequence_length:
        what = f"a stride of {stride} is longer than the sequence length {sequence_length}"
        raise ProblemError(Problem("bad-value", what, "stride", "tokens between two windows would never be scored"))
    return window_convention(sequence_length, stride)


def _byte_lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Bytes of each token [V]; 0 for special tokens."""
    if not hasattr(tokenizer, "byte_lengths"):
        what = f"{type(tokenizer).__name__} does not know the bytes of its tokens"
        raise ProblemError(Problem("no-byte-lengths", what, "tokenizer", "give it `byte_lengths()`, int64 [V]"))
    return np.asarray(cast(Any, tokenizer).byte_lengths(), dtype=np.int64)


def _check_lossless(tokenizer: Tokenizer, tokens: NDArray[np.int64], text: str) -> None:
    kept, given = int(_byte_lengths(tokenizer)[tokens].sum()), len(text.encode())
    if kept != given:
        what = f"the tokens hold {kept} bytes of a text of {given}, so bits per byte would be wrong"
        raise ProblemError(Problem("lossy-tokenizer", what, "tokenizer", "use a byte-level one"))


def _from_file(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # not read_text: it would rewrite line ends
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise ProblemError(Problem("missing-file", what, str(path), "`path` is a local wiki.test.raw")) from error
    except UnicodeDecodeError as error:
        raise ProblemError(Problem("unreadable-file", "is not UTF-8 text", str(path), "decompress it first")) from error


def _from_hub() -> str:
    """The hub's rows are the lines of wiki.test.raw, but for the blank ones, which it empties of their space."""
    try:
        import datasets

        rows: Any = datasets.load_dataset(WIKITEXT2_REPOSITORY, "wikitext-2-raw-v1", split="test")
    except ImportError as error:
        fix = "`uv add 'penstock-eval-suite[hf]'`, or set `path` to a local wiki.test.raw"
        raise ProblemError(Problem("missing-package", "the package 'datasets' is needed", "wikitext2", fix)) from error
    except Exception as error:  # offline, the hub's client raises errors of four libraries
        what = f"{WIKITEXT2_REPOSITORY} cannot be had from the hub ({type(error).__name__})"
        raise ProblemError(
            Problem("hub-unreachable", what, "wikitext2", "set `path` to a local wiki.test.raw")
        ) from error
    return join_hub_rows(rows["text"])


def join_hub_rows(rows: list[str]) -> str:
    """`wiki.test.raw`, byte for byte."""
    return "".join(row or " \n" for row in rows)


def _first_lines(text: str, max_bytes: int) -> str:
    """As many whole lines as fit; a line that does not fit at all is cut between characters."""
    head = text.encode()[:max_bytes].decode("utf-8", errors="ignore")
    return head if len(head) == len(text) or "\n" not in head else head[: head.rindex("\n") + 1]
