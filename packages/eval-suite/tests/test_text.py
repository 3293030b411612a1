"""Bits per byte of any text: every byte of every document once, and the text in the name."""

from __future__ import annotations

import hashlib
import json
import lzma
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.eval_suite.likelihood import token_nll
from penstock.eval_suite.runner import prepare, run_task
from penstock.eval_suite.text import Text
from penstock.hooks.contracts import TaskContext, TaskResult
from penstock.hooks.problems import ProblemError

DOCUMENTS = ["The gate is open.", "Zwölf 水 Mühlen laufen.", "x", "It stands still. " * 5]


def run(task: Text, model: Any, tokenizer: Any, **context: Any) -> TaskResult:
    return run_task(task, model, TaskContext(tokenizer, None, 8, **context))


def nats(model: Any, tokenizer: Any, text: str) -> float:
    """A text by itself: every byte is scored, the first after the end of text."""
    return float(token_nll(model, np.array([0, *tokenizer.encode(text)]), sequence_length=8).sum())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = tmp_path / "texts"
    (texts / "below").mkdir(parents=True)
    for number, text in enumerate(DOCUMENTS[:-1]):
        (texts / f"{number}.txt").write_text(text)
    (texts / "below" / "4.txt.xz").write_bytes(lzma.compress(DOCUMENTS[-1].encode()))
    (texts / ".hidden").write_text("never read")
    (texts / "blank.txt").write_text(" \n")
    return texts


def test_documents_are_scored_one_by_one_with_an_interval_over_them(make_gru, tokenizer, folder: Path) -> None:
    model = make_gru(257)
    result = run(Text([folder]), model, tokenizer)
    ((name, figure),) = result.metrics.items()
    total = sum(len(text.encode()) for text in DOCUMENTS)
    assert figure == pytest.approx(sum(nats(model, tokenizer, text) for text in DOCUMENTS) / math.log(2) / total)
    assert (result.details["bytes"], result.details["items"]) == (total, len(DOCUMENTS))
    assert result.details["standard_error_blocks"] == "documents"
    interval = result.intervals[name]
    assert interval.samples == len(DOCUMENTS)
    assert interval.low <= figure <= interval.high


def test_files_lines_and_separated_pieces_of_one_text_have_one_figure(make_gru, tokenizer, tmp_path: Path) -> None:
    lines, pieces = tmp_path / "a.jsonl", tmp_path / "a.txt"
    lines.write_text("".join(json.dumps({"body": text}) + "\n" for text in DOCUMENTS))
    pieces.write_text("\n<|end|>\n".join(DOCUMENTS))
    tasks = (Text([lines], column="body"), Text([pieces], separator="<|end|>"))
    first, second = (run(task, make_gru(257), tokenizer) for task in tasks)
    assert [*first.metrics.values()] == [*second.metrics.values()]
    assert [*first.intervals.values()] == [*second.intervals.values()]


def test_the_name_has_file_and_hash_of_the_text(uniform_model, tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "my text@1.txt"
    path.write_text("The gate is open. " * 3)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    result = run(Text([path], stride=2), uniform_model, tokenizer)
    name = f"text.bits_per_byte@my-text-1.txt-{digest}-sliding-8-stride-2"
    assert result.metrics == {name: pytest.approx(math.log2(257))}
    assert result.details["standard_error_blocks"] == "windows"  # of a document that is alone
    assert result.intervals[name].samples == math.ceil(54 / 8)


def test_a_limit_is_of_documents_and_in_the_name(uniform_model, tokenizer, folder: Path) -> None:
    result = run(Text([folder]), uniform_model, tokenizer, limit=2)
    assert result.details["items"] == 2
    assert all(name.endswith("-first-2") for name in result.metrics)


def test_what_cannot_be_scored_is_named(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff")
    cases = {"absent.txt": "absent.txt: file not found", "blank.txt": "no text", "bytes.txt": "is not UTF-8 text"}
    for name, message in cases.items():
        with pytest.raises(ProblemError, match=message):
            prepare(Text([tmp_path / name]), TaskContext(tokenizer, None, 8))
    with pytest.raises(ProblemError, match="a stride of 9 is longer"):
        prepare(Text([tmp_path / "blank.txt"], stride=9), TaskContext(tokenizer, None, 8))


def test_a_space_that_the_tokenizer_puts_before_a_text_is_no_byte_of_it(make_gru, tokenizer, tmp_path: Path) -> None:
    class WithSpace(type(tokenizer)):
        """Like the tokenizers of llama2.c; token b + 257 is a space and byte b."""

        vocabulary_size = 513

        def encode(self, text: str) -> list[int]:
            first, *others = super().encode(text)
            return [first + 256, *others]

        def decode(self, tokens) -> str:
            return super().decode([(token - 1) % 256 + 1 for token in tokens])

        def byte_lengths(self) -> np.ndarray:
            return np.array([0] + [1] * 256 + [2] * 256)

    path = tmp_path / "a.txt"
    path.write_text("The gate.")
    result = run(Text([path]), make_gru(513), WithSpace())
    (figure,) = result.metrics.values()
    assert result.details["bytes"] == len("The gate.")
    assert figure == pytest.approx(nats(make_gru(513), WithSpace(), "The gate.") / math.log(2) / len("The gate."))


def test_a_tokenizer_that_loses_text_is_refused(make_gru, tokenizer, tmp_path: Path) -> None:
    class Short(type(tokenizer)):
        def encode(self, text: str) -> list[int]:
            return super().encode(text)[:3]

    path = tmp_path / "a.txt"
    path.write_text("The gate.")
    with pytest.raises(ProblemError, match="contain 3 bytes of a text of 9"):
        run(Text([path]), make_gru(257), Short())


def test_a_byte_order_mark_is_no_byte_of_a_text(make_gru, tokenizer, tmp_path: Path) -> None:
    marked, plain = tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt"
    for path, encoding in ((marked, "utf-8-sig"), (plain, "utf-8")):
        path.parent.mkdir()
        path.write_text("The gate.", encoding=encoding)
    model = make_gru(257)
    assert run(Text([marked]), model, tokenizer).metrics == run(Text([plain]), model, tokenizer).metrics
