"""Settings of the built-in engines, objectives, trackers and observers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from penstock.hooks.config import Schema


class DataParallelConfig(Schema):
    """Ranks that sum their gradients."""

    timeout: float = Field(default=60, gt=0)
    """Minutes that a rank waits for the others. They wait for rank 0 to prepare the data, too."""


class MaskedNextTokenConfig(Schema):
    """Rows of JSON lines: {"text"}, {"prompt", "completion"}, or {"tokens", "mask"}."""

    paths: tuple[str, ...]
    """Files, folders (searched recursively for *.jsonl*) and globs to train on; .gz, .xz and .zst files are
    decompressed."""
    heldout: tuple[str, ...]
    """The same, of rows that are only evaluated."""

    @classmethod
    def example(cls, folder: Path) -> Mapping[str, Any]:
        sums = [{"prompt": f"{a} + {b} =", "completion": f" {a + b}"} for a in range(4) for b in range(a, 5)]
        (folder / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in sums[3:]), encoding="utf-8")
        (folder / "heldout.jsonl").write_text("".join(json.dumps(each) + "\n" for each in sums[:3]), encoding="utf-8")
        return {"paths": [str(folder / "train.jsonl")], "heldout": [str(folder / "heldout.jsonl")]}


class LoadTraceConfig(Schema):
    """The expert load of every step."""

    every: int = Field(default=1, ge=1)
    """Keep the counts of every n-th step."""
