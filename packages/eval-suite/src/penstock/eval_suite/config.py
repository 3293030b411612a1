"""Settings of the tasks; the fields are the keyword arguments of their targets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from penstock.hooks.config import Schema


class HeldoutConfig(Schema):
    """`heldout`: the run's own held-out tokens."""

    stride: int | None = Field(default=None, gt=0)
    """Tokens between the starts of windows; null means disjoint windows. A smaller stride gives more context, at
    sequence_length / stride times the cost."""
    max_tokens: int | None = Field(default=None, gt=1)
    """Score only this many tokens from the start; null means all. A limit becomes part of the metric's name."""


class WikiText2Config(Schema):
    """`wikitext2`: the raw test split of WikiText-2."""

    path: Path | None = None
    """A local `wiki.test.raw`, plain or compressed; null means the data folder, or the hub if there is no folder."""
    stride: int | None = Field(default=None, gt=0)
    """Tokens between the starts of windows; null means disjoint windows."""
    max_bytes: int | None = Field(default=None, gt=1)
    """Score only this many bytes from the start, cut at a line; null means all 1,290,590. A limit becomes part of the
    metric's name."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        lines = (f" The mill ground {number} sacks of corn in the year {1800 + number} . \n" for number in range(40))
        (folder / "wiki.test.raw").write_text("".join(lines), encoding="utf-8")
        return {"path": str(folder / "wiki.test.raw")}


class LambadaConfig(Schema):
    """`lambada`: OpenAI's variant of the test set."""

    path: Path | None = None
    """A local `lambada_test.jsonl` with a passage in the column `text` of each line, plain or compressed; null means
    the data folder, or the Hugging Face hub if there is no data folder."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        passages = (f"Mill {number} ground corn all day long, and in the evening {word}" for number, word in _ENDS)
        (folder / "lambada_test.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in passages))
        return {"path": str(folder / "lambada_test.jsonl")}


_ENDS = tuple(enumerate(("it stopped", "it rested", "we slept", "they ate", "the gate closed", "all was quiet")))
