"""Bits per byte of any text, document by document.

`text.bits_per_byte@README.md-1a2b3c4d-disjoint-256` means: the text of README.md whose SHA-256 begins with 1a2b3c4d,
each document by itself after the end-of-text token, in disjoint windows of 256 tokens. The text is part of the name,
because figures of different texts cannot be compared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from penstock.eval_suite.likelihood import window_convention
from penstock.eval_suite.prompts import first_token, refuse_shots
from penstock.eval_suite.sources import local_rows, read_text, texts_of
from penstock.eval_suite.tasks import (
    BITS_PER_BYTE,
    Stream,
    bytes_of_tokens,
    details_of,
    require_stride,
    stream_bits_per_byte,
)
from penstock.hooks.contracts import Answer, Array, Item, Rolling, RollingAnswer, TaskContext, TaskResult
from penstock.hooks.inputs import expanded
from penstock.hooks.json_lines import is_json_lines
from penstock.hooks.problems import Problem, ProblemError


class Text:
    """`text.bits_per_byte` of files. The interval is over documents, or over the windows of a single one."""

    def __init__(
        self, paths: Sequence[str | Path], column: str = "text", separator: str | None = None, stride: int | None = None
    ) -> None:
        self._paths = [expanded(path) for path in paths]
        self._column = column
        self._separator = separator
        self._stride = stride

    def items(self, context: TaskContext) -> Iterator[Item]:
        """One item a document. Raises `ProblemError` if a file is missing or not text, if there is no text at all, and
        if the tokenizer does not keep every byte of it."""
        refuse_shots(context, "text")
        require_stride(self._stride, context.sequence_length)
        documents = list(self._documents())
        if not documents:
            raise ProblemError(Problem("empty-corpus", "the files contain no text", "task 'text'", "check `paths`"))
        digest = hashlib.sha256("\0".join(text for _, text in documents).encode()).hexdigest()
        alone = len(documents) == 1 or context.limit == 1
        for where, text in documents:
            token_N = np.asarray(context.tokenizer.encode(text), dtype=np.int64)
            byte_N = bytes_of_tokens(context.tokenizer, token_N, text)
            yield Item(where, Stream(np.array([first_token(context.tokenizer), *token_N]), byte_N), (digest[:8], alone))

    def requests(self, item: Item, context: TaskContext) -> Sequence[Rolling]:
        return [Rolling(item.document.token_N, context.sequence_length, self._stride)]

    def score(self, item: Item, answers: Sequence[Answer], context: TaskContext) -> Sequence[Mapping[str, float]]:
        digest, alone = item.gold
        same = {"text": float(int(digest, 16))}  # 32 bits, which a float holds exactly
        if alone:
            return [sample | same for sample in item.document.samples(answers, context.sequence_length)]
        (answer,) = cast("Sequence[RollingAnswer]", answers)
        sums = {"nll": float(answer.nll_N.sum()), "bytes": float(item.document.byte_N.sum())}
        return [{**sums, "tokens": float(len(answer.nll_N)), "documents": 1.0} | same]

    def total(self, scores: Mapping[str, Array], context: TaskContext) -> TaskResult:
        text = f"{self._label()}-{int(scores['text'][0]):08x}"
        convention = f"{text}-{window_convention(context.sequence_length, self._stride)}"
        name = f"text.bits_per_byte@{convention}"
        return TaskResult({name: stream_bits_per_byte(scores)}, details_of(scores), estimates={name: BITS_PER_BYTE})

    def _label(self) -> str:
        name = self._paths[0].name if len(self._paths) == 1 else f"{len(self._paths)}-paths"
        return re.sub(r"[^\w.]+", "-", name)

    def _documents(self) -> Iterator[tuple[str, str]]:
        """The location of each document, and its text; those of white space alone are left out, as in a corpus."""
        for path in self._paths:
            for file in _files(path):
                for where, text in self._documents_of(file):
                    if text.strip():
                        yield where, text

    def _documents_of(self, file: Path) -> Iterator[tuple[str, str]]:
        if is_json_lines(file):
            yield from texts_of(local_rows(file), self._column)
        elif self._separator is None:
            yield str(file), _text_in(file)
        else:
            pieces = _text_in(file).split(self._separator)
            yield from ((f"{file}:{number}", piece.strip("\r\n")) for number, piece in enumerate(pieces, 1))


def _text_in(file: Path) -> str:
    """Like a corpus, which drops a byte order mark too: it says how a file is encoded, and is no text."""
    return read_text(file).removeprefix("\ufeff")


def _files(path: Path) -> list[Path]:
    """The file, or all files in a folder whose names do not start with a dot."""
    if not path.is_dir():
        return [path]
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    return [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
