"""Settings of the built-in engines, objectives, trackers and observers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from penstock.hooks.config import Schema
from penstock.hooks.inputs import InputPattern


class DataParallelConfig(Schema):
    """Data-parallel ranks that sum their gradients."""

    timeout: float = Field(default=60, gt=0)
    """Minutes that a rank waits for the others. This includes waiting for rank 0 to prepare the data."""


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


class LoadTraceConfig(Schema):
    """Records the expert load while training."""

    every: int = Field(default=1, ge=1)
    """Record the counts of every n-th step."""
