"""What evenly used experts cost a model that was trained without: by fine-tuning, and by giving tokens other experts.

The base is the quickstart as `balance.py` trains it with a faint balancing loss, whose experts are unevenly used. It is
fine-tuned twice from the same weights on the same text in the same order, with the faint loss as before and with the
Switch loss at its published weight, for a quarter of the tokens at a third of the rates. Gini coefficients are of the
load on held-out text, the mean over layers; `cut` is what the loss takes off the Gini of its twin, and `cost` how many
percent more bits per byte it has.

Reassignment is `penstock profile --modify` of the base: `balanced` moves as few tokens as an even load needs, and to
the next best experts (gentle), `topk-filtered` draws among the 2k best, `random` sends every token anywhere
(aggressive). Costs are percent of perplexity and of bits per byte. All figures are means over seeds with the half width
of Student's 95 % interval.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import torch
from balance import METHODS, heldout_windows, load_of, passed, trained
from measure import finish, json_option, runs_option
from quickstart import trained_run

from penstock.cli.main import run
from penstock.eval_suite.metrics import bits_per_byte
from penstock.evaluate.paired import half_width
from penstock.routers.load import gini
from penstock.train.restore import RestoredRun

BASE, TUNED = "faint-loss", "switch-loss"
OPTIMIZER = "{use: muon, lr: 0.003, adamw_lr: 0.01, steps: 4, role_lr: {router: 0.001}}"
STRATEGIES = {"balanced": "gentle", "topk-filtered": "gentle", "random": "aggressive", "round-robin": "aggressive"}


def tuned(base: RestoredRun, method: str, tokens: int, runs: Path) -> RestoredRun:
    """The base after so many more tokens, with that way of balancing; trained unless `runs` has it."""
    checkpoint = base.path / "checkpoints" / base.checkpoint_name
    seed = base.config.seed
    model = f"use: glm-moe, pretrained: {checkpoint}, sharing: []"
    return trained_run(
        runs / f"{BASE}-{seed}",
        f"seed={seed + 1000}",  # another order of the text
        f"model={{{model}, balance: {METHODS[method]}}}",
        f"data.tokenizer.file={checkpoint}",
        f"train.tokens={tokens}",
        f"train.optimizer={OPTIMIZER}",
        "train.schedule={use: wsd, warmup: 0.1, decay: 0.4}",
        "train.micro_batch_size=2",
        name=f"tuned-{method}-{tokens}",
    )


@torch.inference_mode()
def measured(restored: RestoredRun, tokens: int) -> dict[str, float]:
    """Bits per byte of held-out text, and how unevenly its tokens use the experts."""
    window_WS = heldout_windows(restored, tokens)
    losses, routings = passed(restored, window_WS)
    text_bytes = int(restored.dataset.tokenizer().byte_lengths()[window_WS[:, 1:]].sum())
    return {"bits/byte": bits_per_byte(losses, text_bytes), "gini": gini(load_of(routings)).mean().item()}


def reassigned(base: RestoredRun, tokens: int) -> dict[str, dict[str, float]]:
    """What each strategy costs the base in percent, and the MaxVio that it leaves."""
    options = ["--modify", ",".join(STRATEGIES), "--fraction", "1", "--max-tokens", str(tokens), "--json"]
    with redirect_stdout(sys.stderr):
        own, *others = run(["profile", str(base.path), *options])["rows"]
    return {
        row["strategy"]: {
            "changed %": 100 * row["changed"],
            "perplexity %": 100 * (row["perplexity"] / own["perplexity"] - 1),
            "bits %": 100 * (row["bits_per_byte"] / own["bits_per_byte"] - 1),
            "MaxVio before": own["max_violation"],
            "MaxVio": row["max_violation"],
        }
        for row in others
    }


def over_seeds(what: str, kind: str, figures: Iterable[dict[str, float]]) -> dict[str, Any]:
    """A row with mean and half width of each figure."""
    listed = list(figures)
    row: dict[str, Any] = {"what": what, "kind": kind}
    for name in listed[0]:
        values = [each[name] for each in listed]
        row[name] = sum(values) / len(values)
        row[f"{name} +-"] = half_width(values)
    return row


def tuning(base: dict[str, float], twin: dict[str, float], even: dict[str, float]) -> dict[str, float]:
    return {
        "gini of base": base["gini"],
        "gini": even["gini"],
        "gini of twin": twin["gini"],
        "cut %": 100 * (1 - even["gini"] / twin["gini"]),
        "cost %": 100 * (even["bits/byte"] / twin["bits/byte"] - 1),
        "bits/byte of base": base["bits/byte"],
        "bits/byte": even["bits/byte"],
    }


@click.command(help=__doc__)
@click.option("--tokens", default=188_416, show_default=True, type=int, help="Tokens of fine-tuning.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Seeds of base and tuning.")
@click.option("--measure", default=200_000, show_default=True, type=int, help="Tokens of held-out text to measure on.")
@click.option("--reassign", default=16_384, show_default=True, type=int, help="Tokens of it to reassign.")
@click.option("--set", "overrides", multiple=True, help="An override of the base's config.")
@runs_option
@json_option
def main(
    tokens: int,
    seeds: int,
    measure: int,
    reassign: int,
    overrides: tuple[str, ...],
    runs: Path | None,
    as_json: bool,
) -> None:
    tunings: list[dict[str, float]] = []
    costs: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (runs or Path(temporary)).resolve()
        for seed in range(seeds):
            base = trained(BASE, seed, overrides, folder)
            models = (base, *(tuned(base, method, tokens, folder) for method in (BASE, TUNED)))
            tunings.append(tuning(*(measured(each, measure) for each in models)))
            costs.append(reassigned(base, reassign))
    rows = [over_seeds("fine-tuned with the loss", "fine-tuning", tunings)]
    rows += [over_seeds(name, kind, (each[name] for each in costs)) for name, kind in STRATEGIES.items()]
    finish(
        "finetune_balance",
        rows,
        [],
        as_json,
        tokens=tokens,
        seeds=seeds,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
