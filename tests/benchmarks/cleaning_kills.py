"""Kills cleanings of each stage with their workers at random moments, starts them again, and compares every byte of
the folder with one that was left alone. So too additions to an index of near duplicates, removals and compactions.

Each stage is a cleaning of its own. One is killed up to five times on its way to the end.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from pathlib import Path

import click
from measure import Bar, finish, json_option

sys.path.append(str(Path(__file__).parents[1]))
from killed_cleanings import clean_command, digest, index_commands, run_killed, run_to_the_end

STAGES = ("urls", "exact", "{use: exact, unit: line}", "gopher", "gopher-repetition", "c4", "fineweb", "language")
STAGES += ("masking", "substrings", "near")
STAGES += ("index begin", "index add", "index remove", "index compact")
OF_ONE = 5


@click.command(help=__doc__)
@click.option("--kills", default=50, show_default=True, type=click.IntRange(min=1), help="Of each stage.")
@click.option("--stage", "stages", multiple=True, default=STAGES, help="Stages to kill; default: all.")
@click.option("--documents", default=2000, show_default=True, help="Documents of the index.")
@click.option("--seed", default=0, show_default=True, help="Decides the moments.")
@json_option
def main(kills: int, stages: tuple[str, ...], documents: int, seed: int, as_json: bool) -> None:
    generator = random.Random(seed)
    rows = []
    for stage in stages:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            indexing = index_commands(folder / "data", documents)
            commands = indexing[stage] if stage in indexing else [clean_command(folder / "data", [stage])]
            done, equal = killed(commands, folder, generator, kills)
        rows.append({"stage": stage, "kills": done, "bit-equal": equal})
        click.echo(f"{stage}: {equal} of {done}", err=True)
    share = min(row["bit-equal"] / row["kills"] for row in rows)
    finish("cleaning_kills", rows, [Bar("share of the kills after which every byte was the same", share, 1.0)], as_json)


def killed(commands: list[list[str]], folder: Path, generator: random.Random, kills: int) -> tuple[int, int]:
    """How many kills found the last command at work, and how many of these changed no byte."""
    held, alone, out = (folder / name for name in ("held", "alone", "killed"))
    held.mkdir()
    for command in commands[:-1]:
        run_to_the_end(command, held)
    shutil.copytree(held, alone)
    seconds = run_to_the_end(commands[-1], alone)
    done = equal = 0
    while done < kills:
        shutil.copytree(held, out)
        found = run_killed(commands[-1], out, generator, seconds, min(OF_ONE, kills - done))
        done += found
        equal += found if digest(out) == digest(alone) else 0
        shutil.rmtree(out)
    return done, equal


if __name__ == "__main__":
    main()
