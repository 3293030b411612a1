"""How well a sweep that stops cells early finds what the whole grid finds, and what it costs.

48 small models are trained with three seeds, once by `--train`; their curves are stored, and searches are replayed over
them. A replay draws the run of each cell's seed anew from the three. `runs` are the whole runs that a search pays; a
whole grid has 144. `regret` is the mean of how many bits per byte the recommended cell is above the best one, both by
their means of three seeds. `kept` is the hypervolume of quality and parameters of the cells that were trained to the
end, as a share of that of the grid: the median, and what 95 % of replays reach. Its reference point is the worst value
of each in the grid and a tenth of the range more.

Ours is a sweep with `rungs: [0.02, 0.04]`, `stop: paired` and `confirm: 1`: one seed of each cell begins, eight go on
to the end, and the best of them gets a second seed. Each search is replayed with quality as the only objective, and
with the parameters beside it. `plain` has two phases without a rule: a share of the tokens for every cell, and the
finalists with three seeds each, or with one. Bars compare ours with the plain searches of three seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import Bar, finish, json_option
from sweep_curves import STORED, read_curves, train
from sweep_replay import Replay, Search, Table, halving, optuna_asha, race, random_search, two_phases

from penstock.sweep.rules.paired import Paired

SHARE = 0.07
"""Of the steps of the whole grid."""
OURS = "paired"
OUR_RUNGS = (0.02, 0.04)
QUALITY, BOTH = "quality", "quality and parameters"


def searches(runs: float) -> dict[str, Search]:
    """Ours, and others that pay about as many whole runs."""
    return {
        OURS: race(Paired(), OUR_RUNGS, confirm=1),
        "plain, 2 %, 3 of 3 seeds": two_phases(0.02, 3, 3),
        "plain, 8 %, 2 of 3 seeds": two_phases(0.08, 2, 3),
        "plain, 4 %, 8 of 1 seed": two_phases(0.04, 8, 1),
        "plain, 8 %, 6 of 1 seed": two_phases(0.08, 6, 1),
        "successive halving, 2 seeds": halving(2, 0.02, 2),
        "successive halving by 3 from 8 %": halving(3, 0.08, 1),
        "Optuna ASHA by 2": optuna_asha(2, runs),
        "Optuna ASHA by 4": optuna_asha(4, runs),
        "random, 10 of 1 seed": random_search(10, 1),
        "random, 3 of 3 seeds": random_search(3, 3),
    }


def replayed(table: Table, search: Search, replays: int, *, costs: bool) -> dict[str, Any]:
    """The figures of one search over all replays."""
    found = [search(Replay(table, np.random.default_rng(number), costs=costs)) for number in range(replays)]
    kept, runs = [table.kept(each.kept) for each in found], [each.runs for each in found]
    return {
        "objectives": BOTH if costs else QUALITY,
        "runs": float(np.mean(runs)),
        "most runs": float(np.max(runs)),
        "regret": float(np.mean([table.regret(each.best) for each in found])),
        "kept": float(np.median(kept)),
        "kept by 95 %": float(np.quantile(kept, 0.05)),
    }


def bars_of(rows: list[dict[str, Any]], runs: float) -> list[Bar]:
    """Ours beside the better of the plain searches with three seeds, with each set of objectives; the hypervolume where
    parameters are one."""
    bars: list[Bar] = []
    for objectives in (QUALITY, BOTH):
        of = {row["search"]: row for row in rows if row["objectives"] == objectives}
        plain = min(row["regret"] for name, row in of.items() if name.startswith("plain") and "3 seeds" in name)
        bars.append(Bar(f"most runs; {objectives}", of[OURS]["most runs"], runs, at_least=False))
        bars.append(Bar(f"regret beside plain; {objectives}", of[OURS]["regret"] / plain, 0.5, at_least=False))
        if objectives == BOTH:
            bars.append(Bar("hypervolume kept, median", of[OURS]["kept"], 0.95))
            bars.append(Bar("hypervolume kept by 95 % of replays", of[OURS]["kept by 95 %"], 0.9))
    return bars


@click.command(help=__doc__)
@click.option("--train", "folder", type=click.Path(path_type=Path), help="Train the runs into this folder, and stop.")
@click.option("--data", type=click.Path(path_type=Path), envvar="PENSTOCK_DATA", help="Folder with `tinystories`.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Processes of one thread.")
@click.option("--cells", type=click.IntRange(min=1), help="Train some cells only, and store nothing.")
@click.option("--curves", default=STORED, type=click.Path(path_type=Path), help="Curves to replay.")
@click.option("--replays", default=1000, show_default=True, type=click.IntRange(min=1), help="Draws of the seeds.")
@json_option
def main(
    folder: Path | None,
    data: Path | None,
    workers: int,
    cells: int | None,
    curves: Path,
    replays: int,
    as_json: bool,
) -> None:
    if folder is not None:
        if data is None:
            raise click.UsageError("training needs --data, a folder with `tinystories`")
        train(folder, data, workers, cells)
        return
    if not curves.exists():
        raise click.UsageError(f"{curves} is not there: train the runs with --train FOLDER first")
    table = Table(*read_curves(curves))
    runs = SHARE * len(table.cells) * len(table.seeds)
    rows = [
        {"search": name, **replayed(table, search, replays, costs=costs)}
        for costs in (False, True)
        for name, search in searches(runs).items()
    ]
    finish("sweep", rows, bars_of(rows, runs), as_json, cells=len(table.cells), replays=replays)


if __name__ == "__main__":
    main()
