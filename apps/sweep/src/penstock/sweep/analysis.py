"""What the results of a sweep show, computed once for its tables, its summary and its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.run.records.sweep import RungFigures, SweepFigures
from penstock.sweep.documents import Documents
from penstock.sweep.fronts import QUALITY, Front, Member, costs_of, fronts_of
from penstock.sweep.pareto import Values, interval
from penstock.sweep.rankings import Compared, Ranking, RateRanking, compared_of, rankings_of, rate_ranking_of
from penstock.sweep.samples import PHASES, Curve, Sample, curves_of, end_of, results_of, sample_at


@dataclass(frozen=True, slots=True)
class Standing:
    """A cell in one phase after some tokens: bits per byte, the mean over seeds, and its 95 % interval over documents
    and, with two seeds or more, over seeds; None without documents."""

    cell: str
    seeds: int
    bits_per_byte: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Level:
    """A value of an axis: the mean over its cells, and the interval of its difference from the mean of all cells."""

    axis: str
    value: str
    cells: int
    bits_per_byte: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Effects:
    """The values of all axes in the first phase after `tokens`, the furthest that all its cells came with the `seeds`
    that each of them has. `left_out` are cells without a result."""

    levels: tuple[Level, ...] = ()
    tokens: int = 0
    seeds: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything above. `pieces` are those of the held-out text, 0 if they are not known; fewer than 30 give no
    interval and no membership. `objective_fronts` have the sweep's own objectives, `cost_fronts` quality against one
    cost each."""

    figures: SweepFigures
    curves: tuple[Curve, ...]
    standings: dict[str, tuple[Standing, ...]]
    effects: Effects
    objective_fronts: tuple[Front, ...]
    cost_fronts: tuple[Front, ...]
    rankings: tuple[Ranking, ...]
    at_rates: RateRanking | None
    compared: tuple[Compared, ...]
    pieces: int = 0

    def front_of(self, cell: str) -> Member | None:
        """The cell on the front of the sweep's objectives, in the last phase that has it."""
        members = [member for front in self.objective_fronts for member in front.members if member.cell == cell]
        return members[-1] if members else None


def analyse(figures: SweepFigures, documents: Documents) -> Analysis:
    """The analysis of a sweep, finished or in progress. Nothing compares cells that were measured on unlike texts."""
    results = results_of(figures)
    phases = [name for name in PHASES if any(each.phase == name for each in results)]
    curves = [curve for name in phases for curve in curves_of(figures, results, name)]
    ends = {name: sample_at(figures, results, documents, name, end_of(figures, results, name)) for name in phases}
    standings = {name: _standings(sample) for name, sample in ends.items()}
    if len({result.text for result in results}) > 1:
        return Analysis(figures, tuple(curves), standings, Effects(), (), (), (), None, ())
    costs = costs_of(figures.cells)
    return Analysis(
        figures=figures,
        curves=tuple(curves),
        standings=standings,
        effects=_effects(figures, [each for each in results if each.phase == phases[0]], documents),
        objective_fronts=tuple(fronts_of(ends, [figures.objectives or {QUALITY: "minimize"}], least=1)),
        cost_fronts=tuple(fronts_of(ends, [{QUALITY: "minimize", cost: "minimize"} for cost in costs], least=2)),
        rankings=tuple(rankings_of(figures, curves, phases)),
        at_rates=rate_ranking_of(figures, curves),
        compared=tuple(compared_of(ends)),
        pieces=max((sample.pieces for sample in ends.values()), default=0),
    )


def _furthest(curves: Sequence[Curve], phase: str) -> int:
    """The most tokens after which every cell of the phase was measured; 0 if no rung is common."""
    passed = [set(curve.tokens) for curve in curves if curve.phase == phase]
    return max(set.intersection(*passed), default=0) if passed else 0


def _effects(figures: SweepFigures, results: Sequence[RungFigures], documents: Documents) -> Effects:
    """Of the results of one phase."""
    if not results:
        return Effects()
    of_cells: dict[str, set[int]] = {}
    for each in results:
        of_cells.setdefault(each.cell, set()).add(each.seed)
    seeds = set.intersection(*of_cells.values())
    shared, phase = [each for each in results if each.seed in seeds], results[0].phase
    if not (tokens := _furthest(curves_of(figures, shared, phase), phase)):
        return Effects()
    sample = sample_at(figures, shared, documents, phase, tokens)
    left_out = [cell.cell for cell in figures.cells if cell not in sample.cells]
    return Effects(tuple(_levels(sample, figures)), tokens, tuple(sorted(seeds)), tuple(left_out))


def _standings(sample: Sample) -> tuple[Standing, ...]:
    bounds = _bounds(sample.replicates_RN, len(sample.cells))
    rows = zip(sample.cells, sample.seeds, sample.quality_N.tolist(), bounds, strict=True)
    return tuple(Standing(cell.cell, seeds, quality, *bound) for cell, seeds, quality, bound in rows)


def _bounds(replicates_RN: Values | None, count: int) -> list[tuple[float, float] | tuple[None, None]]:
    return [(None, None)] * count if replicates_RN is None else [interval(each_R) for each_R in replicates_RN.T]


def _levels(sample: Sample, figures: SweepFigures) -> list[Level]:
    levels: list[Level] = []
    for axis in dict.fromkeys(axis for cell in figures.cells for axis in cell.settings):
        for value in dict.fromkeys(cell.settings[axis] for cell in sample.cells if axis in cell.settings):
            own_N = np.array([cell.settings.get(axis) == value for cell in sample.cells])
            mean = float(sample.quality_N[own_N].mean())
            low = high = None
            if sample.replicates_RN is not None:
                effect_R = sample.replicates_RN[:, own_N].mean(1) - sample.replicates_RN.mean(1)
                grand = float(sample.quality_N.mean())
                low, high = (grand + bound for bound in interval(effect_R))
            levels.append(Level(axis, value, int(own_N.sum()), mean, low, high))
    return levels
