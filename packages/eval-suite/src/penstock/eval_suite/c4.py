"""C4 in English: the first of the eight files of its validation split, which published figures are of.

`c4.bits_per_byte@1a2b3c4d-disjoint-1024` means: documents whose SHA-256 begins with 1a2b3c4d, each by itself after the
end-of-text token, in disjoint windows. `c4.token_perplexity@gptq-1a2b3c4d-2048` is the convention of GPTQ and of most
papers on quantization: the first 1,100 documents joined by spaces, in at most 256 whole windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn, cast

import numpy as np

from penstock.eval_suite.concatenated import Concatenated, concatenated
from penstock.eval_suite.likelihood import window_convention
from penstock.eval_suite.prompts import first_token, refuse_limit, refuse_shots
from penstock.eval_suite.sources import (
    Row,
    compressed_or_not,
    hub_rows,
    local_file,
    local_rows,
    located,
    some_rows,
    texts_of,
)
from penstock.eval_suite.tasks import (
    BITS_PER_BYTE,
    Stream,
    bytes_of_tokens,
    details_of,
    stream_bits_per_byte,
    stream_perplexity,
)
from penstock.hooks.contracts import (
    Answer,
    Array,
    Estimate,
    Item,
    Request,
    Rolling,
    RollingAnswer,
    TaskContext,
    TaskResult,
)
from penstock.hooks.inputs import expanded
from penstock.hooks.problems import Problem, ProblemError

REPOSITORY = "allenai/c4"
FILE = "c4-validation.00000-of-00008.json.gz"
GPTQ_DOCUMENTS = 1_100
GPTQ_WINDOWS = 256
PERPLEXITY = Estimate("nll", "tokens", exponential=True)


class C4:
    """Bits per byte and token perplexity."""

    def __init__(
        self,
        path: str | Path | None = None,
        convention: Literal["documents", "gptq"] = "documents",
        window: int | None = None,
    ) -> None:
        self._path = None if path is None else expanded(path)
        self._gptq = convention == "gptq"
        self._window = window

    def items(self, context: TaskContext) -> Iterator[Item]:
        """One item a document, or one of all. Raises `ProblemError` for a missing file, and if bytes count and the
        tokenizer does not keep every one."""
        refuse_shots(context, "c4")
        if self._length(context) > context.sequence_length:
            what = f"windows of {self._window} tokens, but the model reads {context.sequence_length} at once"
            raise ProblemError(Problem("bad-value", what, "window", "leave it out, or set a shorter one"))
        rows = list(texts_of(self._rows(context), "text"))
        documents = [(where, text) for where, text in rows if text.strip()]
        if not documents:
            fix = "download it again, or give another file"
            raise ProblemError(Problem("empty-corpus", "no document has text", rows[0][0], fix))
        digest = hashlib.sha256("\0".join(text for _, text in documents).encode()).hexdigest()
        for where, document in self._documents(documents, context):
            yield Item(where, document, int(digest[:8], 16))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Request]:
        if isinstance(item.document, Stream):
            return [Rolling(item.document.token_N, self._length(context))]
        return item.document.requests()

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        text = {"text": float(item.gold)}  # 32 bits of its hash, which a float holds exactly
        if isinstance(item.document, Concatenated):
            return [sample | text for sample in item.document.samples(answers)]
        (answer,) = cast("Sequence[RollingAnswer]", answers)
        sums = {"nll": float(answer.nll_N.sum()), "bytes": float(item.document.byte_N.sum())}
        return [{**sums, "tokens": float(len(answer.nll_N)), "documents": 1.0} | text]

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        text, window = f"{int(scores['text'][0]):08x}", self._length(context)
        convention = f"gptq-{text}-{window}" if self._gptq else f"{text}-{window_convention(window)}"
        bits, perplexity = f"c4.bits_per_byte@{convention}", f"c4.token_perplexity@{convention}"
        figures, estimates = {perplexity: stream_perplexity(scores, "tokens")}, {perplexity: PERPLEXITY}
        if self._gptq:
            return TaskResult(figures, {"tokens": round(float(scores["tokens"].sum()))}, estimates=estimates)
        figures = {bits: stream_bits_per_byte(scores), **figures}
        return TaskResult(figures, details_of(scores), estimates={bits: BITS_PER_BYTE, **estimates})

    def _documents(
        self, documents: Sequence[tuple[str, str]], context: TaskContext
    ) -> Iterator[tuple[str, Stream | Concatenated]]:
        if self._gptq:
            refuse_limit(context, "c4", "convention: documents")
            joined = " ".join(text for _, text in documents[:GPTQ_DOCUMENTS])
            token_N = np.asarray(context.tokenizer.encode(joined), dtype=np.int64)
            found = concatenated(token_N, self._length(context), None, gptq=True, where="c4")
            yield "c4", replace(found, parts=found.parts[:GPTQ_WINDOWS])
            return
        for where, text in documents:
            token_N = np.asarray(context.tokenizer.encode(text), dtype=np.int64)
            byte_N = bytes_of_tokens(context.tokenizer, token_N, text)
            yield where, Stream(np.array([first_token(context.tokenizer), *token_N]), byte_N)

    def _rows(self, context: TaskContext) -> Iterator[Row]:
        place = self._place(context)
        if place is not None:
            return some_rows(local_rows(place), str(place))
        rows = hub_rows(REPOSITORY, None, "validation", FILE, data_files={"validation": f"en/{FILE}"})
        return some_rows(located(rows, REPOSITORY, "validation"), REPOSITORY)

    def _place(self, context: TaskContext) -> Path | None:
        """The file of `path` or of the data folder, each as it is or in a clone of the repository, which has it in the
        folder `en`; None means the hub."""
        name = FILE.removesuffix(".gz")
        if self._path is not None and self._path.is_dir():
            return (
                compressed_or_not(self._path / "en" / name) or compressed_or_not(self._path / name) or self._missing()
            )
        cloned = None if self._path or context.data is None else compressed_or_not(context.data / "c4" / "en" / name)
        return cloned or local_file(self._path, context, f"c4/{name}")

    def _missing(self) -> NoReturn:
        what, fix = f"the folder has no {FILE}, nor en/{FILE}", "give the file, or a clone of allenai/c4"
        raise ProblemError(Problem("missing-file", what, str(self._path), fix))

    def _length(self, context: TaskContext) -> int:
        return context.sequence_length if self._window is None else self._window
