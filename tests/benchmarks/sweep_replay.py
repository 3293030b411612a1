"""Searches of a grid whose runs are all known: what each would have found, and what it would have cost.

A replay draws, for each cell, the runs that its seeds stand for, from those that were trained. A search asks for the
results of runs at rungs; each step that a run has not made before is paid. Shape suffixes: C cells, S seeds, P pieces
of the held-out text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sweep_curves import BATCH, LENGTH, RUNGS, TOKENS, Point, steps_of

from penstock.hooks.contracts import Standing, StopRule
from penstock.sweep.finalists import finalists
from penstock.sweep.pareto import hypervolume, reference_point
from penstock.sweep.rules.halving import Halving

Values = NDArray[np.float64]

SHARES = {steps_of(rung) * BATCH * LENGTH: rung for rung in RUNGS}
"""By tokens of a run."""
DECAY = 0.4
"""Of a run's tokens, at its end: what lies before is the trunk, which a longer run of the seed continues."""


@dataclass(frozen=True, slots=True)
class Result:
    bits_per_byte: float
    perplexity: float
    bits_P: Values


class Table:
    """The runs of a grid: results by cell, seed, share of the tokens that the run was planned for, and rung."""

    def __init__(self, points: Sequence[Point], byte_P: Sequence[int]) -> None:
        self.cells = sorted({point.cell for point in points})
        self.seeds = sorted({point.seed for point in points})
        self.byte_P = np.array(byte_P, dtype=np.float64)
        self._results = {
            (point.cell, point.seed, SHARES[point.planned], SHARES[point.tokens]): Result(
                point.bits_per_byte, point.perplexity, np.array(point.document_bits, dtype=np.float64)
            )
            for point in points
        }
        size = {point.cell: point.parameters for point in points}
        self.parameters_C = np.array([size[cell] for cell in self.cells], dtype=np.float64)
        self.truth_C = np.array(
            [np.mean([self.result(cell, seed, 1.0, 1.0).bits_per_byte for seed in self.seeds]) for cell in self.cells]
        )

    def result(self, cell: str, seed: int, planned: float, rung: float) -> Result:
        return self._results[cell, seed, planned, rung]

    def regret(self, cell: str) -> float:
        """Bits per byte of the cell above the best of the grid, both the means of all seeds."""
        return float(self.truth_C[self.cells.index(cell)] - self.truth_C.min())

    def kept(self, cells: Sequence[str]) -> float:
        """The hypervolume of quality and parameters of some cells, as a share of the grid's. The reference point is the
        worst of each in the grid and a tenth of its range more."""
        points = np.column_stack([self.truth_C, self.parameters_C])
        reference = reference_point(points)
        chosen = points[[self.cells.index(cell) for cell in cells]]
        return hypervolume(chosen, reference) / hypervolume(points, reference)


@dataclass
class Replay:
    """One draw of seeds, and what a search has paid so far in whole runs. `costs`: rules see the parameters."""

    table: Table
    random: np.random.Generator
    costs: bool = False
    paid: dict[tuple[str, int, float], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.table.seeds)
        drawn_CS = self.random.integers(0, count, (len(self.table.cells), count))
        self._seed = {cell: drawn_CS[index] for index, cell in enumerate(self.table.cells)}

    @property
    def runs(self) -> float:
        """Whole runs paid: a whole run begins with the trunk of the longest short run of its seed."""
        total = sum(self.paid.values())
        for (cell, seed, planned), share in self.paid.items():
            if planned == 1.0:
                shorter = [of for (one, other, of) in self.paid if (one, other) == (cell, seed) and of < 1.0]
                total -= min(share, (1 - DECAY) * max(shorter, default=0.0))
        return total

    def standing(self, cell: str, seeds: int, planned: float, rungs: Sequence[float]) -> Standing:
        """The cell at the last of the rungs, the mean of its first seeds, trained as far as needed."""
        earlier = tuple[Standing, ...]()
        for rung in rungs:
            found: list[Result] = []
            for seed in range(seeds):
                key = (cell, seed, planned)
                self.paid[key] = max(self.paid.get(key, 0.0), rung)
                actual = self.table.seeds[self._seed[cell][seed]]
                found.append(self.table.result(cell, actual, planned, rung))
            earlier = (*earlier, self._standing(cell, rung, found, earlier))
        return earlier[-1]

    def _standing(self, cell: str, rung: float, found: Sequence[Result], earlier: tuple[Standing, ...]) -> Standing:
        index = self.table.cells.index(cell)
        return Standing(
            cell,
            round(rung * TOKENS),
            float(np.mean([result.bits_per_byte for result in found])),
            float(np.mean([result.perplexity for result in found])),
            np.mean([result.bits_P for result in found], axis=0),
            self.table.byte_P,
            "",
            earlier,
            len(found),
            (float(self.table.parameters_C[index]),) if self.costs else (),
            TOKENS,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What a search recommends, the cells that it kept, and the whole runs that it paid."""

    best: str
    kept: list[str]
    runs: float


Search = Callable[[Replay], Found]


def race(rule: StopRule, rungs: Sequence[float], confirm: int) -> Search:
    """Whole runs of the first seed that a rule stops at rungs, and then further seeds of the best: a sweep with
    `rungs`, `stop` and `confirm`."""

    def search(replay: Replay) -> Found:
        living = list(replay.table.cells)
        for number in range(len(rungs)):
            stopped = rule.stopped(number, [replay.standing(cell, 1, 1.0, rungs[: number + 1]) for cell in living])
            living = [cell for cell in living if cell not in stopped]
        return _confirmed(replay, living, confirm)

    return search


def _confirmed(replay: Replay, living: Sequence[str], confirm: int) -> Found:
    seeds = dict.fromkeys(living, 1)
    for _ in range(confirm):
        waiting = [cell for cell in living if seeds[cell] < len(replay.table.seeds)]
        seeds[_best(replay, waiting, seeds)] += 1
    return Found(_best(replay, living, seeds), list(living), replay.runs)


def _best(replay: Replay, cells: Sequence[str], seeds: Mapping[str, int]) -> str:
    ends = [replay.standing(cell, seeds[cell], 1.0, [1.0]) for cell in cells]
    return min(ends, key=lambda end: (end.bits_per_byte, end.cell)).cell


def two_phases(short: float, count: int, seeds: int) -> Search:
    """Every cell on a share of the tokens with one seed, and the finalists to the end with some."""

    def search(replay: Replay) -> Found:
        standings = [replay.standing(cell, 1, short, [short]) for cell in replay.table.cells]
        return _to_the_end(replay, finalists(standings, count), seeds)

    return search


def halving(reduction: int, first: float, seeds: int) -> Search:
    """Successive halving of whole runs with some seeds: one of so many cells goes on at each rung."""
    rule = Halving(reduction=reduction)

    def search(replay: Replay) -> Found:
        living, rungs = list(replay.table.cells), [rung for rung in RUNGS if rung >= first]
        for number, rung in enumerate(rungs[:-1]):
            stopped = rule.stopped(number, [replay.standing(cell, seeds, 1.0, [rung]) for cell in living])
            living = [cell for cell in living if cell not in stopped]
        return _to_the_end(replay, living, seeds)

    return search


def random_search(count: int, seeds: int) -> Search:
    """Some cells, drawn evenly, to the end."""

    def search(replay: Replay) -> Found:
        return _to_the_end(replay, replay.random.choice(replay.table.cells, count, replace=False).tolist(), seeds)

    return search


def optuna_asha(reduction: int, limit: float) -> Search:
    """Optuna's pruner of this name, on whole runs in a drawn order, one after the other, as long as another whole run
    may be paid."""

    def search(replay: Replay) -> Found:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)
        study = optuna.create_study(pruner=pruner)
        ended: list[str] = []
        for cell in replay.random.permutation(replay.table.cells).tolist():
            if replay.runs + 1.0 > limit:
                break
            trial = study.ask()
            for rung in RUNGS:
                value = replay.standing(cell, 1, 1.0, [rung]).bits_per_byte
                trial.report(value, round(rung / RUNGS[0]))
                if trial.should_prune():
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    break
            else:
                study.tell(trial, value)
                ended.append(cell)
        return _to_the_end(replay, ended, 1)

    return search


def _to_the_end(replay: Replay, chosen: Sequence[str], seeds: int) -> Found:
    return Found(_best(replay, chosen, dict.fromkeys(chosen, seeds)), list(chosen), replay.runs)
