"""Pareto fronts of a sweep: of its own objectives, and of quality against each cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.run.records.sweep import CellFigures
from penstock.sweep.objectives import measured_alone, objective_of
from penstock.sweep.pareto import Values, hypervolume, membership, on_front, reference_point, signed
from penstock.sweep.samples import Sample

QUALITY = "bits_per_byte"
COSTS = ("parameters", "active_parameters", "flops_per_token", "bytes", "latency_128", "latency_512", "peak_memory")
"""What quality is shown against, where cells differ in it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A cell among the candidates of a front: its values in the order of the objectives, and the share of replicates
    in which it is on the front, None without documents."""

    cell: str
    values: tuple[float, ...]
    on_front: bool
    membership: float | None


@dataclass(frozen=True, slots=True)
class Front:
    """A Pareto front at the end of a phase. `hypervolume` is the volume up to `reference`, as a share of the box from
    the best value of each objective to the reference. `compared` are the objectives in which the cells differ."""

    phase: str
    objectives: tuple[str, ...]
    reference: tuple[float, ...]
    hypervolume: float
    members: tuple[Member, ...]

    @property
    def compared(self) -> list[str]:
        values = zip(*(member.values for member in self.members), strict=True)
        return [name for name, own in zip(self.objectives, values, strict=True) if len(set(own)) > 1]


def costs_of(cells: Sequence[CellFigures]) -> list[str]:
    """Costs in which some cells differ, with the formats of bytes spelled out."""
    formats = dict.fromkeys(f"bytes.{name}" for cell in cells for name in cell.bytes)
    names = [name for cost in COSTS for name in (formats if cost == "bytes" else [cost])]
    return [name for name in names if len({objective_of(cell, name) for cell in cells} - {None}) > 1]


def fronts_of(ends: dict[str, Sample], wanted: Sequence[dict[str, str]], least: int) -> list[Front]:
    """A front for each phase (but the common rate's) and each set of objectives that `least` cells or more have. Times
    and tasks are shown beside the quality of the phase after which they were measured, the last."""
    last = list(ends)[-1:]
    return [
        front
        for phase, sample in ends.items()
        for directions in wanted
        if phase != "common" and (phase in last or not any(map(measured_alone, directions)))
        if (front := _front(sample, directions)) and len(front.members) >= least
    ]


def _front(sample: Sample, directions: dict[str, str]) -> Front | None:
    """None if no cell has all objectives. A failed cell is no candidate: its other seeds say nothing about it."""
    names, candidates = tuple(directions), list[tuple[int, dict[str, float]]]()
    for index, cell in enumerate(sample.cells):
        if cell.state == "failed":
            continue
        own = {name: objective_of(cell, name) for name in names} | {QUALITY: float(sample.quality_N[index])}
        values = {name: value for name, value in own.items() if name in directions and value is not None}
        if len(values) == len(names) and np.isfinite(list(values.values())).all():
            candidates.append((index, values))
    if not candidates:
        return None
    points_NM = np.array([signed(values, directions) for _, values in candidates])
    reference, best = reference_point(points_NM), points_NM.min(axis=0)
    shares = _memberships(sample, [index for index, _ in candidates], points_NM, names)
    rows = zip(candidates, on_front(points_NM).tolist(), shares, strict=True)
    return Front(
        sample.phase,
        names,
        tuple(signed(dict(zip(names, reference.tolist(), strict=True)), directions)),
        hypervolume(points_NM, reference) / float(np.prod(reference - best)),
        tuple(Member(sample.cells[index].cell, tuple(own.values()), on, share) for (index, own), on, share in rows),
    )


def _memberships(sample: Sample, chosen: list[int], points_NM: Values, names: Sequence[str]) -> list[float | None]:
    if sample.replicates_RN is None or QUALITY not in names:
        return [None] * len(chosen)
    costs_NM = np.delete(points_NM, names.index(QUALITY), axis=1)
    return list(membership(sample.replicates_RN[:, chosen], costs_NM).tolist())
