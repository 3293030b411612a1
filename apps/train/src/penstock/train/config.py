"""Settings of the built-in engines, objectives, trackers and observers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.hooks.inputs import InputPattern


class DataParallelConfig(Schema):
    """Data-parallel ranks that sum their gradients."""

    timeout: float = Field(default=60, gt=0)
    """Minutes that a rank waits for the others. This includes waiting for rank 0 to prepare the data."""
    stacks_after: float = Field(default=5, gt=0)
    """Minutes of waiting after which the stacks of all ranks are printed, once, in the middle of a run; data and
    checkpoints may take longer."""


class ShardedConfig(DataParallelConfig):
    """Ranks that each hold a share of every parameter."""

    least_layer: int = Field(default=1_000_000, ge=0)
    """A layer with at least so many parameters is gathered by itself. Smaller layers are gathered with the embedding
    and the head, because a collective for each takes more time than it saves memory."""


class MaskedNextTokenConfig(Schema):
    """Rows of JSON lines: {"text"}, {"prompt", "completion"}, or {"tokens", "mask"}."""

    paths: tuple[InputPattern, ...]
    """Files, folders (searched recursively for .jsonl files) and globs to train on; .gz, .bz2, .xz and .zst files are
    decompressed."""
    heldout: tuple[InputPattern, ...]
    """Files, folders and globs of rows that are only evaluated, in the same form as `paths`."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        sums = [{"prompt": f"{a} + {b} =", "completion": f" {a + b}"} for a in range(4) for b in range(a, 5)]
        (folder / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in sums[3:]), encoding="utf-8")
        (folder / "heldout.jsonl").write_text("".join(json.dumps(each) + "\n" for each in sums[:3]), encoding="utf-8")
        return {"paths": [str(folder / "train.jsonl")], "heldout": [str(folder / "heldout.jsonl")]}


class MaskedTokensConfig(Schema):
    """Hidden tokens of the prepared text, for encoders."""

    share: float = Field(default=0.15, gt=0, lt=1)
    """Fraction of the tokens to predict, as in BERT. Of these 80 % are hidden, 10 % replaced by a random token, and the
    rest left as they are."""
    mask_token: int = Field(default=15, ge=0)
    """Id of the token that hides another: a special token that no text has. 15 is the last reserved one of tokenizers
    that are trained here."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        return {"mask_token": 0}  # the one special token of the kit's tokenizer


class FilesOfTask(Schema):
    """Examples to train on, and examples that are only evaluated. Of a folder, all files below it that fit are read;
    .gz, .bz2, .xz and .zst files are decompressed."""

    paths: tuple[InputPattern, ...]
    """Files, folders and globs of examples to train on."""
    heldout: tuple[InputPattern, ...]
    """Files, folders and globs of examples that are only evaluated."""


class ClassificationConfig(FilesOfTask):
    """A label for each text or pair of texts, in .tsv files or JSON lines."""

    texts: tuple[int | str, ...] = ()
    """The column of the text, or the columns of the two texts: names of the header line or of JSON fields, or numbers
    from 1 in a .tsv file without header. Default: column 1, or the field `text`."""
    label: int | str | None = None
    """The column of the label. Default: column 2, or the field `label`."""
    labels: tuple[str, ...] = ()
    """The labels in the order of the head's outputs; by default those of the training files, sorted. The model's
    `head.labels` is their number."""

    def misfits(self) -> Iterator[tuple[tuple[str], str]]:
        if bool(self.texts) != (self.label is not None):
            yield ("label" if self.texts else "texts",), "name both `texts` and `label`, or neither"
        if len(self.texts) > 2:
            yield ("texts",), f"an example has one text or two, not {len(self.texts)}"
        if any(isinstance(each, int) and each < 1 for each in (*self.texts, self.label)):
            yield ("texts",), "columns are counted from 1"
        if len(set(self.labels)) < len(self.labels):
            yield ("labels",), "a label is named twice"

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        lines = [f"{'good' if number % 2 else 'bad'} film {number}\t{number % 2}\n" for number in range(9)]
        return _written(folder, "tsv", "".join(lines[3:]), "".join(lines[:3]))


class TagsConfig(FilesOfTask):
    """A label for each word, in CoNLL's columns or JSON lines {"words", "tags"}."""

    scheme: Literal["entities", "plain"] = "entities"
    """`entities`: tags are O, B-TYPE and I-TYPE in any of the usual schemes, IOB1 of CoNLL-2003 included, scored as
    whole entities. `plain`: any tags, such as parts of speech, scored word by word."""
    column: int | None = Field(default=None, ge=2)
    """Column of the tag, counted from 1; null takes the last. The word is in column 1."""
    limit: int | None = Field(default=None, ge=1)
    """Train on the first N sentences alone."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        sentences = [f"{letter} B-PER\nm I-PER\nn O\n\n" for letter in "abcdefghi"]
        return _written(folder, "txt", "".join(sentences[3:]), "".join(sentences[:3]))


class SpansConfig(FilesOfTask):
    """The part of a text that answers a question, in SQuAD's JSON (1.1 or 2.0)."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        asked = [_question(number) for number in range(6)]
        return _written(folder, "json", _squad(asked[2:]), _squad(asked[:2]))


def _question(number: int) -> Mapping[str, Any]:
    answer = {"text": "ab"[number % 2], "answer_start": number % 2}
    return {"context": "ab c", "qas": [{"id": str(number), "question": "q?", "answers": [answer]}]}


def _squad(paragraphs: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps({"data": [{"paragraphs": list(paragraphs)}]})


def _written(folder: Path, suffix: str, train: str, heldout: str) -> Mapping[str, Any]:
    files = {"paths": folder / f"train.{suffix}", "heldout": folder / f"heldout.{suffix}"}
    for file, text in zip(files.values(), (train, heldout), strict=True):
        file.write_text(text, encoding="utf-8")
    return {name: [str(file)] for name, file in files.items()}


class LoadTraceConfig(Schema):
    """Records the expert load while training."""

    every: int = Field(default=1, ge=1)
    """Record the counts of every n-th step."""
