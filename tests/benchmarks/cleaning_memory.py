"""Memory that a stage of a cleaning takes beside its process, for each byte of text in its shard.

Each stage works on one shard in a process of its own, as `penstock data clean` has it: documents of 2 kB, or one
document as large as the shard; of ASCII words, or with an emoji every few words, for which Python holds every character
of a text in 4 bytes. The peak of a process that builds the stage and judges one short document is taken off.

The bars are the two figures by which `max_ram` decides how many workers may start.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import click
import numpy as np
from measure import Bar, finish, json_option, peak_megabytes

from penstock.data_prep.cleaning.memory import PROCESS, SHARD
from penstock.hooks.contracts import Document
from penstock.hooks.registry import Registry

STAGES = ("urls", "exact", "near", "substrings", "gopher", "gopher-repetition", "c4", "fineweb", "language", "masking")
DOCUMENT = 2_000
"""Bytes of a document, where the shard has many."""


def texts(kind: str, size: int, whole: bool) -> list[str]:
    """Texts of so many bytes together, of words that repeat as those of prose do."""
    draw = random.Random(0)
    known = ["".join(draw.choices("etaoinshrdlu", k=draw.randrange(1, 10))) for _ in range(30_000)]
    made: list[str] = []
    while size > 0:
        words = draw.choices(known[: 1 << draw.randrange(4, 15)], k=300)
        if kind == "emoji":
            words[::8] = ["\U0001f642"] * len(words[::8])
        made.append(" ".join(words))
        size -= len(made[-1].encode())
    return ["\n".join(made)] if whole else made


def peak(stage: str, kind: str, size: int, whole: bool) -> int:
    """Bytes that this process has taken at most, after one stage worked on one shard."""
    cleaner: Any = Registry.discover().choose("cleaner", {"use": stage}).build()
    found = enumerate(texts(kind, size, whole))
    shard = [Document(text, str(place), f"https://example.org/{place}") for place, text in found]
    if hasattr(cleaner, "judge"):
        for document in shard:
            cleaner.judge(document)
    else:
        np.asarray(cleaner.sketch(shard))
    return round(peak_megabytes() * 1e6)


def measured(stage: str, kind: str, size: int, whole: bool) -> int:
    case = json.dumps([stage, kind, size, whole])
    ended = subprocess.run([sys.executable, __file__, "--case", case], check=True, capture_output=True, text=True)
    return int(ended.stdout)


def row_of(stage: str, kind: str, size: int, whole: bool) -> Mapping[str, Any]:
    least = measured(stage, kind, 1, whole)
    held = sum(len(text) * (4 if kind == "emoji" else 1) for text in texts(kind, size, whole))
    beside = measured(stage, kind, size, whole) - least
    return {
        "stage": stage,
        "text": kind,
        "documents": "one" if whole else f"of {DOCUMENT} bytes",
        "process MB": least / 1e6,
        "bytes a byte": beside / size,
        "of them the texts": held / size,
    }


@click.command(help=__doc__)
@click.option("--megabytes", default=16.0, show_default=True, type=click.FloatRange(min=0.1), help="Text of a shard.")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Default: all.")
@click.option("--case", hidden=True)
@json_option
def main(megabytes: float, stages: tuple[str, ...], case: str | None, as_json: bool) -> None:
    if case is not None:
        click.echo(peak(*json.loads(case)))
        return
    size = round(megabytes * 1e6)
    kinds = [(kind, whole) for kind in ("ASCII", "emoji") for whole in (False, True)]
    rows = [row_of(stage, kind, size, whole) for stage in stages or STAGES for kind, whole in kinds]
    process, shard = (max(row[name] for row in rows) for name in ("process MB", "bytes a byte"))
    bars = [
        Bar("megabytes of a process", process, PROCESS / 1e6, at_least=False),
        Bar("bytes a byte of a shard", shard, SHARD, at_least=False),
    ]
    finish("cleaning_memory", rows, bars, as_json, megabytes=megabytes)


if __name__ == "__main__":
    main()
