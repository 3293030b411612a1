"""The quickstart trained with each way of balancing: how even the load is on held-out text, and what it costs in bits.

Every seed trains one model a method, on the same data, from the same weights, in the same order, with four
micro-batches a step: of one, the Switch loss of a micro-batch and the exact global one would be the same. MaxVio is
(max - mean) / mean of an expert's load over all held-out tokens that are scored, the mean over layers (MaxVio_global of
arXiv 2408.15664); the worst layer is printed beside it. Bits per byte are compared within a seed.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import Bar, finish, json_option
from quickstart import CONFIG

from penstock.cli.main import run
from penstock.eval_suite.metrics import bits_per_byte
from penstock.hooks import Registry
from penstock.routers.load import expert_load, max_violation
from penstock.train.restore import Restored, restore

# The Switch loss has its published weight. A tenth of the weight below leaves the global loss where the Switch loss is.
METHODS: dict[str, str | None] = {
    "switch-loss": "[{use: switch-loss, weight: 0.01}]",
    "global-loss": "[{use: global-loss, weight: 0.1}]",
    "loss-free": None,  # as the quickstart has it
}
# "No worse" is a mean over paired seeds that is worse by no more than a fifth of a percent.
LEEWAY = 0.002


def trained(method: str, seed: int, overrides: tuple[str, ...], runs: Path) -> Restored:
    """A finished run of the quickstart, which is trained unless `runs` has it."""
    folder = runs / f"{method}-{seed}"
    finished = [path for path in folder.glob("*/2*") if '"finished"' in (path / "status.json").read_text()]
    if not finished:
        balance = METHODS[method]
        chosen = [] if balance is None else [f"model.balance={balance}"]
        arguments = ["train", str(CONFIG), f"seed={seed}", "train.micro_batch_size=2", *chosen, *overrides]
        finished = [Path(run([*arguments, "--runs", str(folder), "--resume", "auto", "--json"])["run_dir"])]
    return restore(finished[-1], Registry.discover())


@torch.inference_mode()
def measured(restored: Restored, tokens: int) -> dict[str, float]:
    """Bits per byte and MaxVio on windows spread evenly over the held-out text: files differ, and the first are few."""
    length = restored.config.data.sequence_length
    heldout, width = restored.dataset.split("heldout"), restored.dataset.tokenizer().byte_lengths()
    available = (len(heldout) - 1) // length
    windows = min(available, max(1, tokens // length))
    starts_W = [number * available // windows * length for number in range(windows)]
    nats: list[float] = []
    scored_bytes, counts_LE = 0, 0
    for start in range(0, windows, 8):
        batch = [heldout.slice(at, at + length + 1) for at in starts_W[start : start + 8]]
        window_WS = torch.from_numpy(np.stack(batch))
        output = restored.model.next_token_loss(window_WS[:, :-1], window_WS[:, 1:])
        nats.append(output.loss.item())
        scored_bytes += int(width[window_WS[:, 1:].numpy()].sum())
        counts_LE = counts_LE + expert_load(output.routings).counts_LE
    violation_L = max_violation(torch.as_tensor(counts_LE))
    return {
        "heldout bits/byte": bits_per_byte(nats, scored_bytes),
        "MaxVio": violation_L.mean().item(),
        "worst layer": violation_L.max().item(),
        "heldout tokens": windows * length,
    }


@click.command()
@click.option("--tokens", default=None, type=int, help="Tokens to train on; the quickstart's where it is not given.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Seeds a method.")
@click.option("--heldout-tokens", default=200_000, show_default=True, type=int, help="Held-out tokens to score.")
@click.option(
    "--runs", default=None, type=click.Path(path_type=Path), help="Folder of runs, which are kept and reused."
)
@click.option("--set", "overrides", multiple=True, help="An override of the config, for all methods.")
@json_option
def main(
    tokens: int | None,
    seeds: int,
    heldout_tokens: int,
    runs: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    given = overrides if tokens is None else (f"train.tokens={tokens}", *overrides)
    with tempfile.TemporaryDirectory() as folder:
        rows: list[dict[str, Any]] = [
            {"seed": seed, "method": name, **measured(trained(name, seed, given, runs or Path(folder)), heldout_tokens)}
            for seed in range(seeds)
            for name in METHODS
        ]
    bars: list[Bar] = []
    bits = {name: [row["heldout bits/byte"] for row in rows if row["method"] == name] for name in METHODS}
    for name in ("global-loss", "loss-free"):
        violation = statistics.mean(row["MaxVio"] for row in rows if row["method"] == name)
        bars.append(Bar(f"MaxVio of {name}", violation, 0.1, at_least=False))
        worse = [ours / theirs - 1 for ours, theirs in zip(bits[name], bits["switch-loss"], strict=True)]
        bars.append(Bar(f"bits of {name} over the Switch loss's", statistics.mean(worse), LEEWAY, at_least=False))
    finish("balance", rows, bars, as_json, tokens=tokens or "quickstart", threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
