"""Kills training hundreds of times, resumes it, and compares every bit with a run that was not killed.

Half of the kills fall anywhere in a life, half inside stages in turn; each is a SIGKILL, and where it hit is read from
the process's stack. Compared are weights, optimizer state, metrics without clock readings, and the routing trace.

With `--ranks 2` one random rank of the run is killed. The other must end by itself within a time limit, and as many
ranks resume the run. No launcher watches the ranks. If one is killed before it meets the other, the other reports that
it did not start or cannot be reached.
"""

from __future__ import annotations

import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from measure import Bar, finish, json_option

from penstock.hooks import ExitCode

sys.path.append(str(Path(__file__).parents[1]))
from crash import (
    CONFIG,
    LIMIT,
    STAGES,
    CrashServer,
    Life,
    differences,
    kill_and_resume,
    kill_points,
    kill_rank_and_resume,
    outcome,
    rank_kill_points,
    write_corpus,
)

WAIT = 20.0  # seconds that a rank waits for the other
ABSENT = ("did not start", "cannot reach rank 0")


@click.command()
@click.option("--kills", default=500, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, help="Decides the moments.")
@click.option("--ranks", default=1, show_default=True, type=click.IntRange(1, 2), help="Processes of the run.")
@click.option("--engine", default="ddp", show_default=True, help="Engine of the ranks.")
@json_option
def main(kills: int, seed: int, ranks: int, engine: str, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary, CrashServer(make(Path(temporary, "server"))) as server:
        killer = Killer(server, Path(temporary), ranks, engine)
        measure(killer, kills, seed, as_json)


class Killer:
    """Runs of one config and the run that nothing happened to."""

    def __init__(self, server: CrashServer, folder: Path, ranks: int, engine: str) -> None:
        self.server, self.folder, self.ranks = server, folder, ranks
        self.settings = [f"train.engine={{use: {engine}, timeout: {WAIT / 60}}}"] if ranks > 1 else []
        self.config_file = folder / "tiny.yaml"
        self.config_file.write_text(CONFIG.format(corpus=write_corpus(folder / "corpus")))
        self.live("first")  # pays for imports
        self.unkilled = self.live("unkilled")

    def live(self, name: str, rank: int = 0, **faults: Any) -> Life:
        if self.ranks == 1:
            return kill_and_resume(self.server, self.config_file, self.folder / name, **faults)
        given = (self.server, self.config_file, self.folder / name, *self.settings)
        return kill_rank_and_resume(*given, rank=rank, **faults)

    def points(self, generator: random.Random) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rank and moment."""
        seconds = self.unkilled.killed.seconds
        if self.ranks == 1:
            return ((0, at) for at in kill_points(generator, seconds))
        return rank_kill_points(generator, seconds, self.ranks)


def measure(killer: Killer, kills: int, seed: int, as_json: bool) -> None:
    expected = outcome(killer.unkilled.run)
    hit: Counter[str] = Counter()
    equal: Counter[str] = Counter()
    of_rank: Counter[int] = Counter()
    to_resume: list[float] = []
    to_notice: list[float] = [0.0]
    lost: list[str] = []  # of the other ranks, those that did not end by themselves with an error that says why
    points = killer.points(random.Random(seed))
    begun = time.monotonic()
    while hit.total() < kills:
        rank, at = next(points)
        life = killer.live("life", rank, at=at)
        if life.killed.status == -signal.SIGKILL:  # else it ended before
            refused = life.resumed.status not in (0, -signal.SIGKILL)
            differing = [life.resumed.said] if refused else differences(outcome(life.run), expected)
            hit[life.killed.stage] += 1
            equal[life.killed.stage] += not differing
            of_rank[rank] += 1
            to_resume.append(life.resumed.seconds)
            to_notice += [other.seconds - life.killed.seconds for other in life.others]
            lost += [
                f"{life.killed.stage}, {at}: the other ended with {other.status}: {other.said}"
                for other in life.others
                if other.status not in (0, ExitCode.FAILED) and not any(each in other.said for each in ABSENT)
            ]
            if differing or hit.total() % 50 == 0:
                where = f"rank {rank}, {life.killed.stage}" if killer.ranks > 1 else life.killed.stage
                click.echo(f"{hit.total()} of {kills}: {at}: {where}: {differing or 'equal'}", err=True)
        shutil.rmtree(killer.folder / "life")
    rows = [{"killed during": stage, "kills": count, "bit-equal": equal[stage]} for stage, count in hit.most_common()]
    bars = [
        Bar("share of the kills that ended bit-equal", equal.total() / hit.total(), 1.0),
        Bar("stages that were hit", len(hit), min(len(set(STAGES.values())) - 2, hit.total() // 20)),
    ]
    told: dict[str, Any] = {"seconds_to_resume": round(statistics.median(to_resume), 3)}
    if killer.ranks > 1:
        for text in lost:
            click.echo(text, err=True)
        bars += [
            Bar("ranks left waiting or broken by the death of another", len(lost), 0, at_least=False),
            Bar("seconds until the last of them had ended", max(to_notice), LIMIT, at_least=False),
        ]
        told |= {"ranks": killer.ranks, "kills_by_rank": dict(sorted(of_rank.items()))}
    told["seconds_per_kill"] = round((time.monotonic() - begun) / kills, 2)
    finish("kills", rows, bars, as_json, kills=kills, seed=seed, **told)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
