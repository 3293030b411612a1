"""How many steps, and how much time, Muon saves against AdamW when both are tuned alike.

A GPT-2 of 1.07M parameters learns the quickstart's text, 1,024 tokens a step. Both optimizers search one space with the
same trials: the rate of the matrices, the rate of all other parameters, weight decay and warm-up, each on a log scale
(Muon's updates are scaled to the size of AdamW's, so one range suits both). Two thirds of the trials are Halton points
of the whole space, the rest of a part around the best so far, a quarter as wide. Trials have seed 0 and are judged by
one half of the held-out text; what follows has other seeds and is measured on the other half.

The target is what tuned AdamW reaches at the end of its run. Muon is then trained anew, with a schedule of its own, for
each of several shares of AdamW's steps: where a long run passes the target says little, as most of the gain comes while
the rate decays. A share meets the target by the rule of the speed-run community (modded-nanogpt asks for
`(target - mean) * sqrt(n) >= 0.004` where a run deviates by 0.0013): the mean lies `Z` of its standard errors below.
The target is measured too, so its error counts as well. Deviations are taken of all seeds of all cells together.

`speed-up` is the number of steps of AdamW over those at which Muon has the same loss, interpolated within a seed
between the shares, with Student's 95 % interval. Beyond the shares it is a bound. Times of a step are interleaved
processor time of this machine; Muon's share of a step is large here, because the model and its batch are small.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from balance import WINDOWS, heldout_windows
from measure import finish, interleaved, json_option, runs_option
from numpy.typing import NDArray
from quickstart import Quickstart, trained_run
from scipy.stats.qmc import Halton

from penstock.eval_suite.metrics import bits_per_byte
from penstock.evaluate.paired import half_width
from penstock.train.restore import RestoredRun

MODEL = (
    "model={use: gpt, preset: quickstart, max_position_embeddings: 128}",
    "data.tokenizer.vocab_size=2048",
    "data.sequence_length=128",
    "train.evaluate_every=null",
)
TOKENS_PER_STEP = 8 * 128
SPACE = {"matrices": (1e-3, 3e-2), "others": (1e-3, 1e-1), "weight_decay": (1e-2, 1.0), "warmup": (1e-2, 2e-1)}
OPTIMIZERS = {
    "adamw": "{{use: adamw, lr: {others}, role_lr: {{matrix: {matrices}}}, weight_decay: {weight_decay}}}",
    "muon": "{{use: muon, lr: {matrices}, adamw_lr: {others}, weight_decay: {weight_decay}}}",
}
AROUND_BEST = 0.25  # of the width of the space
SHARES = (1.0, 0.74, 0.5, 0.35, 0.25)  # 0.74 and 0.5 of the steps are 1.35 and 2 times as fast
Z = 0.004 / 0.0013
TOKENS_PER_SECOND = 7000  # of one core
MEASURED_TOKENS = 40_000  # of each half of the held-out text


@dataclass(frozen=True, slots=True)
class Search:
    """A folder of runs, and the steps of each."""

    runs: Path
    steps: int

    def bits(self, optimizer: str, point: Iterable[float], seed: int, share: float = 1.0) -> tuple[float, float]:
        """Held-out bits per byte of either half, after that share of the steps with the settings of a point."""
        steps = round(share * self.steps)
        settings = settings_at(point)
        chosen = OPTIMIZERS[optimizer].format(**settings)
        name = f"{optimizer}-{steps}-" + "-".join(f"{value:g}" for value in (*settings.values(), seed))
        kept = self.runs / f"{name}.json"
        if not kept.exists():
            train = (f"train.tokens={steps * TOKENS_PER_STEP}", f"train.optimizer={chosen}")
            schedule = f"train.schedule={{use: wsd, decay: 0.4, warmup: {settings['warmup']}}}"
            restored = trained_run(self.runs, f"seed={seed}", *MODEL, *train, schedule, name=name)
            kept.write_text(json.dumps(heldout_bits(restored)), encoding="utf-8")
        first, second = json.loads(kept.read_text(encoding="utf-8"))
        return first, second

    def tuned(self, optimizer: str, trials: int) -> list[dict[str, Any]]:
        """Every trial, the best first."""
        wide = -(-2 * trials // 3)
        tried: list[tuple[float, NDArray[np.float64]]] = []
        for point in Halton(len(SPACE), rng=0).random(wide):
            tried.append((self.bits(optimizer, point, seed=0)[0], point))
        centre = min(tried, key=lambda one: one[0])[1]
        for offset in Halton(len(SPACE), rng=1).random(trials - wide):
            point = np.clip(centre + AROUND_BEST * (offset - 0.5), 0, 1)
            tried.append((self.bits(optimizer, point, seed=0)[0], point))
        tried.sort(key=lambda one: one[0])
        return [
            {"optimizer": optimizer, "what": "trial", "bits/byte": bits, **settings_at(point), "point": point.tolist()}
            for bits, point in tried
        ]


def settings_at(point: Iterable[float]) -> dict[str, float]:
    """The settings at a point of the unit cube, to three digits."""
    limits = zip(SPACE.items(), point, strict=True)
    return {name: float(f"{low * (high / low) ** at:.3g}") for (name, (low, high)), at in limits}


@torch.inference_mode()
def heldout_bits(restored: RestoredRun) -> tuple[float, float]:
    """Bits per byte of every second window of the held-out text, and of those between."""
    window_WS = heldout_windows(restored, 2 * MEASURED_TOKENS)
    width = restored.dataset.tokenizer().byte_lengths()

    def of(half_WS: torch.Tensor) -> float:
        parts = half_WS.split(WINDOWS)
        losses = [restored.model.next_token_loss(part[:, :-1], part[:, 1:]).loss.item() for part in parts]
        return bits_per_byte(losses, int(width[half_WS[:, 1:]].sum()))

    return of(window_WS[::2]), of(window_WS[1::2])


@dataclass(frozen=True, slots=True)
class Compared:
    """What tuned Muon needs of AdamW's steps."""

    target: float
    deviation: float
    z: dict[float, float]
    fewest_steps: float | None
    speedup: float
    half_width: float | None
    bounded: bool


def compared(adamw: Sequence[float], muon: Mapping[float, Sequence[float]]) -> Compared:
    """Of the losses by seed: AdamW's, and Muon's after each share of the steps."""
    target, seeds = statistics.mean(adamw), len(adamw)
    cells = [adamw, *muon.values()]
    deviation = math.sqrt(statistics.mean(statistics.variance(cell) for cell in cells))
    error = deviation * math.sqrt(2 / seeds)
    z = {share: (target - statistics.mean(losses)) / error for share, losses in muon.items()}
    ratios = [speedup(adamw[seed], {share: muon[share][seed] for share in muon}) for seed in range(seeds)]
    return Compared(
        target,
        deviation,
        z,
        min((share for share, value in z.items() if value >= Z), default=None),
        statistics.mean(ratios),
        half_width(ratios),
        any(ratio in (1 / min(muon), 1 / max(muon)) for ratio in ratios),
    )


def speedup(target: float, loss: Mapping[float, float]) -> float:
    """All steps over those that reach the target, on a line between losses over the logarithm of the share.

    >>> round(speedup(1.5, {0.25: 2.0, 1.0: 1.0}), 3)
    2.0
    >>> speedup(0.5, {0.25: 2.0, 1.0: 1.0}), speedup(3.0, {0.25: 2.0, 1.0: 1.0})
    (1.0, 4.0)
    """
    shares = sorted(loss, reverse=True)  # losses ascend
    reached = np.interp(target, np.maximum.accumulate([loss[share] for share in shares]), np.log(shares))
    return 1 / math.exp(reached)


def step_seconds(best: Mapping[str, Sequence[float]], rounds: int) -> dict[str, float]:
    """Processor seconds of a training step of each optimizer."""
    steps = {
        name: Quickstart(*MODEL, f"train.optimizer={OPTIMIZERS[name].format(**settings_at(point))}").step
        for name, point in best.items()
    }
    return interleaved(steps, rounds=rounds, warmup=3, clock=time.process_time)


@click.command(help=__doc__)
@click.option("--steps", default=200, show_default=True, type=click.IntRange(min=4), help="Steps of AdamW.")
@click.option("--trials", default=12, show_default=True, type=click.IntRange(min=2), help="Trials an optimizer.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=2), help="Seeds at the best settings.")
@runs_option
@json_option
def main(steps: int, trials: int, seeds: int, runs: Path | None, as_json: bool) -> None:
    tokens = steps * TOKENS_PER_STEP * (2 * trials + seeds * (1 + sum(SHARES)))
    click.echo(f"{tokens / 1e6:.1f}M tokens: about {tokens / TOKENS_PER_SECOND / 60:.0f} minutes of one core", err=True)
    with tempfile.TemporaryDirectory() as temporary:
        search = Search(runs or Path(temporary), steps)
        tried = {name: search.tuned(name, trials) for name in OPTIMIZERS}
        best = {name: rows[0]["point"] for name, rows in tried.items()}
        numbers = range(1, seeds + 1)
        adamw = [search.bits("adamw", best["adamw"], seed)[1] for seed in numbers]
        muon = {share: [search.bits("muon", best["muon"], seed, share)[1] for seed in numbers] for share in SHARES}
    found = compared(adamw, muon)
    seconds = step_seconds(best, rounds=30)
    rows: list[dict[str, Any]] = [row for name in tried for row in tried[name]]
    rows.append(finals("adamw", 1.0, adamw))
    rows += [{**finals("muon", share, muon[share]), "z": found.z[share]} for share in SHARES]
    facts = asdict(found)
    del facts["z"]
    time_ratio = found.speedup * seconds["adamw"] / seconds["muon"]
    finish(
        "muon_against_adamw",
        rows,
        [],
        as_json,
        steps=steps,
        trials=trials,
        seeds=seeds,
        **facts,
        step_of_muon_over_adamw=seconds["muon"] / seconds["adamw"],
        speedup_in_time=time_ratio,
        threads=torch.get_num_threads(),
    )


def finals(optimizer: str, share: float, losses: Sequence[float]) -> dict[str, Any]:
    return {
        "optimizer": optimizer,
        "what": f"seeds, {share:.0%} of the steps",
        "share": share,
        "bits/byte": statistics.mean(losses),
        "by seed": list(losses),
    }


if __name__ == "__main__":
    main()
