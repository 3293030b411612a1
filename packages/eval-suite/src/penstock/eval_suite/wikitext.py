"""WikiText's test split, by the conventions that published figures follow. They change the figures, so names have them.

- `wikitext2.word_perplexity@raw-disjoint-256`: the raw text as one stream in disjoint windows of 256 tokens; words are
  counted as lm-evaluation-harness counts them.
- `wikitext2.word_perplexity@lm-eval-1024`: article by article as in lm-evaluation-harness (see `lm_eval_pages`), where
  GPT-2 124M has 37.37.
- `wikitext2.token_perplexity@concat-1024`, `...@concat-1024-stride-512`: lines joined by blank ones, in the loop of
  transformers' documentation (see `concatenated`), where GPT-2 124M has 29.94 without a stride.
- `wikitext2.token_perplexity@gptq-2048`: the same text, whole windows only, as papers on quantization count.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.eval_suite.concatenated import Concatenated, concatenated, window_name
from penstock.eval_suite.config import WIKITEXT2_SHA256
from penstock.eval_suite.likelihood import window_convention
from penstock.eval_suite.lm_eval_pages import Page, pages_of
from penstock.eval_suite.metrics import count_words
from penstock.eval_suite.prompts import refuse_limit, refuse_shots
from penstock.eval_suite.sources import DataSet, is_parquet, read_text, texts_of
from penstock.eval_suite.tasks import (
    BITS_PER_BYTE,
    Stream,
    bytes_of_tokens,
    details_of,
    require_stride,
    require_two,
    stream_bits_per_byte,
    stream_perplexity,
)
from penstock.hooks.contracts import Answer, Array, Estimate, Item, Request, Rolling, TaskContext, TaskResult
from penstock.hooks.inputs import expanded
from penstock.hooks.json_lines import is_json_lines
from penstock.hooks.problems import Problem, ProblemError

Convention = Literal["raw", "lm-eval", "concat", "gptq"]
METRICS: Mapping[Convention, Sequence[str]] = {
    "raw": ("bits_per_byte", "word_perplexity", "token_perplexity"),
    "lm-eval": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "concat": ("token_perplexity",),
    "gptq": ("token_perplexity",),
}
_STRIDED = ("raw", "concat")


class WikiText2:
    """Perplexity and bits per byte on the test split of WikiText-2."""

    name: ClassVar = "wikitext2"
    data: ClassVar = DataSet("Salesforce/wikitext", "wikitext-2-raw-v1", "test", "wikitext2/wiki.test.raw")

    def __init__(
        self,
        path: str | Path | None = None,
        stride: int | None = None,
        max_bytes: int | None = None,
        sha256: str | None = WIKITEXT2_SHA256,
        convention: Convention = "raw",
        window: int | None = None,
    ) -> None:
        self.path = None if path is None else expanded(path)
        self.stride = stride
        self.max_bytes = max_bytes
        self.sha256 = sha256
        self.convention: Convention = convention
        self.window = window

    def items(self, context: TaskContext) -> Iterator[Item]:
        """One item, or one an article. Raises `ProblemError` if there is no text, if it is another text than `sha256`
        says, for windows that the convention or the model does not have, and if bytes count and the tokenizer does not
        keep every one."""
        refuse_shots(context, self.name)
        self._require_windows(context)
        where, whole = self._whole(context)
        digest = hashlib.sha256(whole.encode()).hexdigest()
        if self.sha256 not in (None, digest):
            raise _other_text(digest, self.sha256 or "", where)
        text = whole if self.max_bytes is None else _first_lines(whole, self.max_bytes)
        cut_at = len(text.encode()) if len(text) < len(whole) else 0
        for identity, document in self._documents(text, context):
            yield Item(identity, document, (int(digest[:8], 16), cut_at))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Request]:
        if isinstance(item.document, Stream):
            return [Rolling(item.document.token_N, self._length(context), self.stride)]
        return item.document.requests()

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        text, cut_at = item.gold
        same = {"text": float(text), "cut_at": float(cut_at)}  # 32 bits of its hash, which a float holds exactly
        stream = isinstance(item.document, Stream)
        samples = item.document.samples(answers, *([self._length(context)] if stream else []))
        return [sample | same for sample in samples]

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        convention = self._convention(scores, self._length(context))
        figures: dict[str, float] = {}
        estimates: dict[str, Estimate] = {}
        for metric in METRICS[self.convention]:
            name, unit = f"{self.name}.{metric}@{convention}", f"{metric.removesuffix('_perplexity')}s"
            bits = metric == "bits_per_byte"
            figures[name] = stream_bits_per_byte(scores) if bits else stream_perplexity(scores, unit)
            estimates[name] = BITS_PER_BYTE if bits else Estimate("nll", unit, exponential=True)
        sizes = {unit: round(float(scores[unit].sum())) for unit in ("tokens", "bytes", "words") if unit in scores}
        details = details_of(scores) | sizes if self.convention == "raw" else sizes
        return TaskResult(figures, details, estimates=estimates)

    def _documents(self, text: str, context: TaskContext) -> Iterator[tuple[str, Stream | Page | Concatenated]]:
        window = self._length(context)
        match self.convention:
            case "raw":
                token_N = _encoded(text, context)
                require_two(token_N, self.name)
                byte_N = bytes_of_tokens(context.tokenizer, token_N, text)
                yield "wiki.test.raw", Stream(token_N, byte_N[1:], count_words(text))
            case "lm-eval":
                for number, (title, page) in enumerate(pages_of(text), 1):
                    yield f"{number} {title}".strip(), Page.of(page, context.tokenizer, window)
            case "concat" | "gptq":
                token_N = _encoded("\n\n".join(_hub_lines(text)), context)
                gptq = self.convention == "gptq"
                yield "wiki.test.raw", concatenated(token_N, window, self.stride, gptq=gptq, where=self.name)

    def _convention(self, scores: Mapping[str, Array], window: int) -> str:
        text, cut_at = f"{int(scores['text'][0]):08x}-", int(scores["cut_at"][0])
        other = "" if WIKITEXT2_SHA256.startswith(text[:8]) else text
        cut = f"first-{cut_at}-bytes-" if cut_at else ""
        name = window_convention if self.convention == "raw" else window_name
        return f"{self.convention}-{other}{cut}{name(window, self.stride)}"

    def _length(self, context: TaskContext) -> int:
        return context.sequence_length if self.window is None else self.window

    def _require_windows(self, context: TaskContext) -> None:
        if self.convention != "lm-eval":
            refuse_limit(context, self.name, "max_bytes")
        if self.stride is not None and self.convention not in _STRIDED:
            what = f"convention '{self.convention}' has windows that do not overlap, but a stride is set"
            raise ProblemError(Problem("bad-value", what, "stride", "leave it out, or set `convention: concat`"))
        if self._length(context) > context.sequence_length:
            what = f"windows of {self.window} tokens, but the model reads {context.sequence_length} at once"
            raise ProblemError(Problem("bad-value", what, "window", "leave it out, or set a shorter one"))
        require_stride(self.stride, self._length(context))

    def _whole(self, context: TaskContext) -> tuple[str, str]:
        """Where the text is from, and the text."""
        place = self.data.place(self.path, context)
        where = self.data.repository if place is None else str(place)
        if place is not None and not (place.is_dir() or is_parquet(place) or is_json_lines(place)):
            text = read_text(place)
        else:
            text = join_hub_rows([text for _, text in texts_of(self.data.rows(self.path, context), "text")])
        if not text.strip():
            raise ProblemError(Problem("empty-corpus", "has no text", where, "download it again, or give another file"))
        return where, text


class WikiText103(WikiText2):
    """The same on the test split of WikiText-103, whose raw text is that of WikiText-2."""

    name: ClassVar = "wikitext103"
    data: ClassVar = DataSet("Salesforce/wikitext", "wikitext-103-raw-v1", "test", "wikitext103/wiki.test.raw")


def join_hub_rows(rows: list[str]) -> str:
    """`wiki.test.raw`, byte for byte: the hub's rows are its lines, except that blank lines lost their space."""
    return "".join(row or " \n" for row in rows)


def _hub_lines(text: str) -> list[str]:
    """The rows of the hub: lines with their ends, and nothing for a blank one."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)  # str.splitlines splits at other characters too
    return [line if line.strip() else "" for line in lines]


def _encoded(text: str, context: TaskContext) -> NDArray[Any]:
    return np.asarray(context.tokenizer.encode(text), dtype=np.int64)


def _other_text(found: str, expected: str, where: str) -> ProblemError:
    what = f"not the test split of WikiText-2: the SHA-256 of the text is {found[:12]}..., not {expected[:12]}..."
    fix = "take wiki.test.raw of wikitext-2-raw-v1; the task `text` scores any text"
    return ProblemError(Problem("wrong-text", what, where, fix))


def _first_lines(text: str, max_bytes: int) -> str:
    """As many whole lines as fit; a line that does not fit at all is cut between characters."""
    head = text.encode()[:max_bytes].decode("utf-8", errors="ignore")
    return head if len(head) == len(text) or "\n" not in head else head[: head.rindex("\n") + 1]
