"""Kills cleanings of each stage with their workers at random moments, starts them again, and compares every byte of
the folder with one that was left alone.

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
from killed_cleanings import cleaned, digest, killed_cleaning, write_cleaning

STAGES = ("urls", "exact", "{use: exact, unit: line}", "gopher", "gopher-repetition", "c4", "fineweb", "language")
STAGES += ("masking", "substrings", "near")
OF_ONE = 5


@click.command(help=__doc__)
@click.option("--kills", default=50, show_default=True, type=click.IntRange(min=1), help="Of each stage.")
@click.option("--stage", "stages", multiple=True, default=STAGES, help="Stages to kill; default: all.")
@click.option("--seed", default=0, show_default=True, help="Decides the moments.")
@json_option
def main(kills: int, stages: tuple[str, ...], seed: int, as_json: bool) -> None:
    generator = random.Random(seed)
    rows = []
    for stage in stages:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            clean_file = write_cleaning(folder / "data", [stage])
            seconds = cleaned(clean_file, folder / "alone")
            expected, done, equal = digest(folder / "alone"), 0, 0
            while done < kills:
                found = killed_cleaning(clean_file, folder / "killed", generator, seconds, min(OF_ONE, kills - done))
                done += found
                equal += found if digest(folder / "killed") == expected else 0
                shutil.rmtree(folder / "killed")
        rows.append({"stage": stage, "kills": done, "bit-equal": equal})
        click.echo(f"{stage}: {equal} of {done}", err=True)
    share = min(row["bit-equal"] / row["kills"] for row in rows)
    finish("cleaning_kills", rows, [Bar("share of the kills after which every byte was the same", share, 1.0)], as_json)


if __name__ == "__main__":
    main()
