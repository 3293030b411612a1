"""Kills sweeps and their workers at random moments, starts them again, and compares all findings with a sweep that was
left alone: every figure of every result, decisions, states of cells, and the Pareto set, to the bit.

A sweep takes about five kills on its way to the end. The controller, a worker, and all of them are killed in turn; the
moment is a few results and checkpoints after the last kill, and up to 0.3 s. Steps that are trained again are counted
from the logs of the workers.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
from measure import Bar, finish, json_option

sys.path.append(str(Path(__file__).parents[1]))
from crash import differences
from killed_sweeps import INTERVAL, WHO, Kill, SweepServer, findings, pareto_set, write_sweep

OF_A_SWEEP = 5
"""Kills of one sweep, if it lasts that long."""


@click.command()
@click.option("--kills", default=50, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, help="Decides the moments.")
@json_option
def main(kills: int, seed: int, as_json: bool) -> None:
    generator, begun = random.Random(seed), time.monotonic()
    done: list[Kill] = []
    equal: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary, SweepServer() as server:
        folder = Path(temporary)
        alone = server.sweep(write_sweep(folder, "null"), folder / "alone")
        sweep_file = write_sweep(folder)
        expected = findings(alone), sorted(pareto_set(alone))
        while len(done) < kills:
            new = server.killed_sweep(sweep_file, folder / "runs", generator, min(OF_A_SWEEP, kills - len(done)))
            killed = folder / "runs" / "killed"
            differing = differences((findings(killed), sorted(pareto_set(killed))), expected)
            done += new
            equal.update(kill.who for kill in new if not differing)
            click.echo(f"{len(done)} of {kills}: {differing or 'equal'}", err=True)
            shutil.rmtree(folder / "runs")
    of_each = Counter(kill.who for kill in done)
    rows = [{"killed": who, "kills": of_each[who], "bit-equal": equal[who]} for who in WHO]
    repeated = [steps for kill in done for steps in kill.repeated]
    bars = [
        Bar("share of the kills after which the sweep found the same", equal.total() / len(done), 1.0),
        Bar("steps of a run repeated after a kill", max(repeated, default=0), INTERVAL, at_least=False),
    ]
    facts = {"kills": kills, "seed": seed, "checkpoint_every": INTERVAL, "runs_set_back": len(repeated)}
    finish("sweep_kills", rows, bars, as_json, **facts, seconds_per_kill=round((time.monotonic() - begun) / kills, 1))


if __name__ == "__main__":
    main()
