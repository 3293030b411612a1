"""Ternary weights that three layers share: what packing loses, what ternary costs, what sharing costs.

The shared model has six layers of two blocks, AAABBB, in ternary weights with activations of 8 bits and an embedding of
8 bits. Beside it stand, for every seed, on the same data in the same order:

- full precision: the shared model, in fp32;
- equal bytes: two layers that share nothing, so a file of equal size, trained for as many tokens;
- equal FLOPs: six layers that share nothing, so as much to compute for every token, trained for as many tokens;
- equal time: the model of equal bytes, trained for as many more tokens as its steps are faster.

Bits per byte are of held-out text. `packed - trained` is the difference that the artifact of the shared model makes,
read by torch and (where the compiled library is there) by the decoder, of which the larger counts. A row of all seeds
has the mean of the paired differences `shared - other` in bits per byte, with the half width of Student's 95 %
interval: below 0 the shared model is the better one. Runs are short, so the differences are those of models at the
beginning of training.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from measure import Bar, finish, interleaved, json_option, rounds, runs_option
from quickstart import Quickstart, trained_run
from ternary_training import decoded_bits, heldout_bits

from penstock.cli.main import run
from penstock.evaluate.paired import paired
from penstock.hooks import Registry
from penstock.quant158 import native
from penstock.train.compose import parameter_summary
from penstock.train.flops import flops_of_forward
from penstock.train.restore import RestoredRun, restore

TERNARY = "model.quantizer={weights: {use: ternary, group: 128, activations: int8}, embedding: int8, head: int8}"
DENSE = (
    "model.hidden_size=256",
    "model.num_attention_heads=4",
    "model.num_key_value_heads=4",
    "model.head_dim=64",
    "model.intermediate_size=512",
    "model.sub_norm=true",
    "model.balance=[]",
    "train.batch_size=4",
    "train.evaluate_every=1000",
    "train.checkpoint_every=1000",
)


def layers(number: int) -> tuple[str, str]:
    return f"model.num_hidden_layers={number}", f"model.first_k_dense_replace={number}"


SHARED = "model.sharing=[{use: tied-embeddings}, {use: cross-layer, pattern: sequential, interval: 3}]"
UNSHARED = "model.sharing=[{use: tied-embeddings}]"
SHARED_TERNARY, EQUAL_BYTES, EQUAL_TIME = "shared, ternary", "equal bytes", "equal time"
MODELS: dict[str, tuple[str, ...]] = {
    SHARED_TERNARY: (*layers(6), SHARED, TERNARY),
    "full precision": (*layers(6), SHARED, "model.quantizer=null"),
    EQUAL_BYTES: (*layers(2), UNSHARED, TERNARY),
    "equal FLOPs": (*layers(6), UNSHARED, TERNARY),
}


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run and what was measured of it."""

    name: str
    seed: int
    bits: float
    gap: float | None
    file: int
    seconds: float
    tokens: int
    parameters: int
    flops: int

    def row(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "model": self.name,
            "heldout bits/byte": self.bits,
            "packed - trained": "" if self.gap is None else self.gap,
            "file, bytes": self.file,
            "parameters": self.parameters,
            "MFLOPs a token": self.flops / 1e6,
            "trained tokens": self.tokens,
            "training, s": self.seconds,
        }


def trained(name: str, seed: int, tokens: int, overrides: Sequence[str], runs: Path, measure: int) -> Trained:
    """Measured of a finished run, which is trained unless `runs` has it."""
    model = MODELS[EQUAL_BYTES if name == EQUAL_TIME else name]
    given = (f"seed={seed}", f"train.tokens={tokens}", *DENSE, *model, *overrides)
    restored = trained_run(runs, *given, name=f"{name.replace(', ', '-').replace(' ', '-')}-{tokens}-{seed}")
    bits, status = heldout_bits(restored, measure), restored.run.status()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "model.penstock")
        with redirect_stdout(sys.stderr):
            run(["export", str(restored.path), "--format", "penstock", "--out", str(path)])
        gap = packed_gap(restored, path, bits, measure) if name == SHARED_TERNARY else None
        file = path.stat().st_size
    return Trained(
        name,
        seed,
        bits,
        gap,
        file,
        status.seconds or 0.0,
        status.tokens_seen or 0,
        parameter_summary(restored.composition).total,
        flops_of_forward(restored.config, restored.composition),
    )


def packed_gap(restored: RestoredRun, path: Path, bits: float, measure: int) -> float:
    """The largest difference in bits per byte between the trained model and its artifact, by torch and the decoder."""
    gaps = [heldout_bits(restored, measure, restore(path, Registry.discover()).model) - bits]
    if native.built():
        gaps.append(decoded_bits(restored, measure, path.parent) - bits)
    return max(map(abs, gaps))


def compared(rows: Sequence[Trained], other: str) -> dict[str, Any]:
    """The shared ternary model beside another, over all seeds."""
    of = {name: {each.seed: each for each in rows if each.name == name} for name in (SHARED_TERNARY, other)}
    pairs = [(ours.bits, of[other][seed].bits) for seed, ours in of[SHARED_TERNARY].items()]
    difference = None if other == SHARED_TERNARY else paired(pairs)
    return {
        "seed": "all",
        "model": other,
        "heldout bits/byte": statistics.fmean(theirs for _, theirs in pairs),
        "file, bytes": round(statistics.fmean(each.file for each in of[other].values())),
        "training, s": sum(each.seconds for each in of[other].values()),
        "shared - other": "" if difference is None else difference.mean,
        "+-": "" if difference is None or difference.half_width is None else difference.half_width,
    }


def times_faster(overrides: Sequence[str], rounds: int) -> float:
    """Steps of the model of equal bytes in the time of one of the shared model; to a tenth, so that runs that are kept
    are found again."""
    cases = {name: Quickstart(*DENSE, *MODELS[name], *overrides).step for name in (SHARED_TERNARY, EQUAL_BYTES)}
    seconds = interleaved(cases, rounds=rounds, clock=time.process_time)
    return round(seconds[SHARED_TERNARY] / seconds[EQUAL_BYTES], 1)


@click.command(help=__doc__)
@click.option("--tokens", default=60_000, show_default=True, type=int, help="Tokens to train on.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Seeds a model.")
@click.option("--measure", default=20_000, show_default=True, type=int, help="Tokens of held-out text to measure on.")
@runs_option
@click.option("--set", "overrides", multiple=True, help="An override of the config, for all models.")
@rounds(5)
@json_option
def main(
    tokens: int,
    seeds: int,
    measure: int,
    runs: Path | None,
    overrides: tuple[str, ...],
    rounds: int,
    as_json: bool,
) -> None:
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        budgets = {**dict.fromkeys(MODELS, tokens), EQUAL_TIME: round(tokens * times_faster(overrides, rounds))}
        found = [
            trained(name, seed, budget, overrides, runs or Path(folder), measure)
            for seed in range(seeds)
            for name, budget in budgets.items()
        ]
    sizes = {name: next(each.file for each in found if each.name == name) for name in budgets}
    bars = [
        Bar("packed - trained, bits per byte", max(each.gap or 0.0 for each in found), 0.003, False),
        Bar("file of the shared model / that of equal bytes", sizes[SHARED_TERNARY] / sizes[EQUAL_BYTES], 1.05, False),
        Bar("seconds in all", time.perf_counter() - begun, 600, False),
    ]
    rows = [*(each.row() for each in found), *(compared(found, name) for name in budgets)]
    finish("sharing_ternary", rows, bars, as_json, tokens=tokens, seeds=seeds, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
