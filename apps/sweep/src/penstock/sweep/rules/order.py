"""Which cells a cell is compared with, if a sweep has more objectives than quality."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.hooks.contracts.stopping import Standing


def cheaper(standing: Standing, standings: Sequence[Standing]) -> list[Standing]:
    """The other cells that cost no more in any objective. A cell is on the Pareto front if it is better than these,
    whatever a cell that costs more may reach."""
    return [
        other
        for other in standings
        if other.cell != standing.cell
        and all(cost <= own for cost, own in zip(other.costs, standing.costs, strict=True))
    ]


def best(standings: Sequence[Standing]) -> Standing | None:
    return min(standings, key=_quality, default=None)


def ranked(standings: Sequence[Standing]) -> list[Standing]:
    """The best first: in order of Pareto fronts, the second being that of the cells without the first, and within a
    front by bits per byte. With quality as the only objective each front is one cell, or equal ones."""
    left, ordered = sorted(standings, key=_quality), list[Standing]()
    while left:
        beaten = {
            each.cell for each in left if any(other.bits_per_byte < each.bits_per_byte for other in cheaper(each, left))
        }
        ordered += [each for each in left if each.cell not in beaten]
        left = [each for each in left if each.cell in beaten]
    return ordered


def _quality(standing: Standing) -> tuple[float, str]:
    return standing.bits_per_byte, standing.cell
