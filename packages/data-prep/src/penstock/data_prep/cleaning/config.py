"""Settings of the stages of cleaning; the fields are the keyword arguments of their targets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from penstock.data_prep.cleaning.normalise import Normaliser
from penstock.hooks.config import Schema
from penstock.hooks.inputs import InputPattern


class ExactConfig(Schema):
    """Equal documents, paragraphs or lines; the first of the corpus stays."""

    unit: Literal["document", "paragraph", "line"] = "document"
    """What is compared. Equal documents are removed, equal paragraphs and lines cut out."""
    normaliser: Normaliser | None = None
    """What equal texts may differ in: `{}` for case, punctuation, whitespace and Unicode's form, or some of
    `{case: keep, punctuation: keep, whitespace: keep, unicode: none}`. Without it, texts are equal character by
    character."""
    min_characters: int = Field(default=20, ge=1)
    """Shorter paragraphs and lines stay."""


class SubstringsConfig(Schema):
    """Spans that stand in several documents; the first of the corpus keeps them."""

    tokens: int = Field(default=50, ge=2)
    """Shortest span, in words or Chinese and Japanese characters; 50 as in Lee et al. (2022), where these are BPE
    tokens."""
    action: Literal["cut", "remove"] = "cut"
    """`cut` puts a form feed in place of each span, `remove` removes documents that repeat `share`."""
    share: float = Field(default=0.5, gt=0, le=1)
    """With `remove`: share of a document's tokens in spans from which on it is removed."""


class DecontaminationConfig(Schema):
    """Words of evaluations in documents."""

    paths: tuple[InputPattern, ...] = Field(min_length=1)
    """JSON Lines files of evaluations, with their texts under `text`; folders and globs. The name of a file before its
    first dot is that of the evaluation."""
    words: int = Field(default=13, ge=1)
    """How many successive words a document and an evaluation have in common; 13 as in GPT-3."""
    shortest: int = Field(default=8, ge=1)
    """Texts of fewer than `words` words are looked for as a whole from this number on."""
    action: Literal["remove", "cut"] = "remove"
    """`remove` removes the document, `cut` puts a form feed in place of the common words."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        lines = [json.dumps({"text": text}) for text in ("When did the mill stand still?", "It was in 1871.")]
        (folder / "history.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return {"paths": [str(folder)], "words": 5, "shortest": 3}
