"""Kills training hundreds of times, resumes it, and compares every bit with a run that was not killed.

Half of the kills fall anywhere in a life, half inside stages in turn; each is a SIGKILL, and where it hit is read from
the process's stack. Compared are weights, optimizer state, metrics without clock readings, and the routing trace.
"""

from __future__ import annotations

import random
import shutil
import signal
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click
from measure import Bar, finish, json_option

sys.path.append(str(Path(__file__).parents[1]))
from crash import CONFIG, STAGES, CrashServer, differences, kill_and_resume, kill_points, outcome, write_corpus


@click.command()
@click.option("--kills", default=500, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True, help="Decides the moments.")
@json_option
def main(kills: int, seed: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary, CrashServer(make(Path(temporary, "server"))) as server:
        measure(server, Path(temporary), kills, seed, as_json)


def measure(server: CrashServer, folder: Path, kills: int, seed: int, as_json: bool) -> None:
    corpus = write_corpus(folder / "corpus")
    config_file = folder / "tiny.yaml"
    config_file.write_text(CONFIG.format(corpus=corpus))
    kill_and_resume(server, config_file, folder / "first")  # pays for imports
    unkilled = kill_and_resume(server, config_file, folder / "unkilled")
    expected = outcome(unkilled.run)
    hit: Counter[str] = Counter()
    equal: Counter[str] = Counter()
    seconds: list[float] = []
    points = kill_points(random.Random(seed), unkilled.killed.seconds)
    while hit.total() < kills:
        at = next(points)
        life = kill_and_resume(server, config_file, folder / "life", at=at)
        if life.killed.status == -signal.SIGKILL:  # else it ended before
            refused = life.resumed.status not in (0, -signal.SIGKILL)
            differing = [life.resumed.said] if refused else differences(outcome(life.run), expected)
            hit[life.killed.stage] += 1
            equal[life.killed.stage] += not differing
            seconds.append(life.resumed.seconds)
            if differing or hit.total() % 50 == 0:
                click.echo(f"{hit.total()} of {kills}: {at}: {life.killed.stage}: {differing or 'equal'}", err=True)
        shutil.rmtree(folder / "life")
    rows = [{"killed during": stage, "kills": count, "bit-equal": equal[stage]} for stage, count in hit.most_common()]
    bars = [
        Bar("share of the kills that ended bit-equal", equal.total() / hit.total(), 1.0),
        Bar("stages that were hit", len(hit), min(len(set(STAGES.values())) - 2, hit.total() // 20)),
    ]
    finish("kills", rows, bars, as_json, kills=kills, seed=seed, seconds_to_resume=round(statistics.median(seconds), 3))


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
