"""Reaching any batch, and reading batches, of a token split of 2^25 tokens in two shards.

- Seek: a split and its order are opened anew and give batch 100,000, in the seventh epoch.
- Exactness: the next 1,000 batches are those of another order that was read through from batch 0.
- Throughput: the order alone against the training step of the quickstart, which consumes batches of the same size.

The files were just written, so they are read from the page cache: what is timed is the order, not the disk.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import Bar, finish, interleaved, json_option, rounds_option
from quickstart import Quickstart

from penstock.data_prep.dataset import TokenSplit
from penstock.data_prep.order import TokenOrder
from penstock.data_prep.shards import ShardRecord, SplitRecord

TOKENS, SHARDS = 2**25, 2
FAR, NEXT = 100_000, 1_000
READ = 100  # batches of one timed reading


def write_split(folder: Path) -> SplitRecord:
    """Random tokens, as `penstock prepare` lays them out."""
    generator = np.random.default_rng(0)
    shards: list[ShardRecord] = []
    for number in range(SHARDS):
        shards.append(ShardRecord(name=f"train-{number:05d}", tokens=TOKENS // SHARDS, documents=1))
        generator.integers(0, 4096, TOKENS // SHARDS, dtype="<u2").tofile(folder / f"{shards[-1].name}.bin")
    return SplitRecord(tokens=TOKENS, documents=SHARDS, text_bytes=0, shards=tuple(shards))


def differing(through: TokenOrder, sought: TokenOrder) -> int:
    """How many of the `NEXT` batches after `FAR` differ between one that is read from the start and one that is not."""
    for step in range(FAR):
        through.batch(step)
    steps = range(FAR, FAR + NEXT)
    return sum(not np.array_equal(through.batch(step), sought.batch(step)) for step in steps)


@click.command(help=__doc__)
@rounds_option
@json_option
def main(rounds: int, as_json: bool) -> None:
    quickstart = Quickstart()
    config = quickstart.config
    sizes = {"sequence_length": config.data.sequence_length, "batch_size": config.train.batch_size}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record = write_split(folder)

        def opened() -> TokenOrder:
            return TokenOrder(TokenSplit(folder, record, np.dtype("<u2")), **sizes, seed=0)

        order = opened()
        cases = {
            f"seek to batch {FAR:,}": lambda: opened().batch(FAR),
            f"read {READ} batches": lambda: [order.batch(step) for step in range(READ)],
            "training step": quickstart.step,
        }
        seconds = dict(zip(("seek", "read", "training"), interleaved(cases, rounds=rounds).values(), strict=True))
        wrong = differing(opened(), opened())
    per_second = {
        "order": READ * order.tokens_per_step / seconds["read"],
        "training": order.tokens_per_step / seconds["training"],
    }
    rows: list[dict[str, Any]] = [
        {"what": f"seek to batch {FAR:,}", "ms": seconds["seek"] * 1e3},
        {"what": "one batch", "ms": seconds["read"] / READ * 1e3, "tokens/s": per_second["order"]},
        {"what": "quickstart training step", "ms": seconds["training"] * 1e3, "tokens/s": per_second["training"]},
    ]
    bars = [
        Bar("seek to a batch, ms", seconds["seek"] * 1e3, 50, at_least=False),
        Bar(f"of {NEXT} batches from {FAR:,}, not as read from the start", wrong, 0, at_least=False),
        Bar("order / training, tokens/s", per_second["order"] / per_second["training"], 50),
    ]
    finish("data_order", rows, bars, as_json, tokens=TOKENS, **sizes, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
