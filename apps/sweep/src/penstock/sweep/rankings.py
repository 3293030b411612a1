"""Rankings of the cells of a sweep side by side: at equal tokens and FLOPs, and after different phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.run.records.sweep import SweepFigures
from penstock.sweep.agreement import Agreement, agreement, disagreements, ranks
from penstock.sweep.equal_flops import at_equal_flops, slope_of
from penstock.sweep.samples import Curve, Sample


@dataclass(frozen=True, slots=True)
class Ranked:
    """A cell's bits per byte and rank at equal tokens and at equal FLOPs, which it spends on `flops_tokens`."""

    cell: str
    at_tokens: float
    tokens_rank: int
    at_flops: float
    flops_rank: int
    flops_tokens: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """Both rankings of the cells of a phase, best at equal tokens first; `flips` are pairs whose order differs, the
    first better at equal tokens. `method` is "scaled" or "interpolated", and `left_out` have no rung early enough."""

    phase: str
    tokens: int
    method: str
    rows: tuple[Ranked, ...]
    agreement: Agreement
    flips: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """Whether one phase ranks the cells that both have as another does."""

    first: str
    second: str
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class AtRates:
    """A cell's bits per byte and rank at its own learning rate and at that of its config."""

    cell: str
    own_rate: float | None
    own: float
    own_rank: int
    common_rate: float | None
    common: float
    common_rank: int


@dataclass(frozen=True, slots=True)
class RateRanking:
    """The cells at both rates after `tokens`, the furthest that all of them came; best at its own rate first. `flips`
    are pairs whose order differs, the first better at its own rate."""

    tokens: int
    rows: tuple[AtRates, ...]
    agreement: Agreement
    flips: tuple[tuple[str, str], ...]


def rate_ranking_of(figures: SweepFigures, curves: Sequence[Curve]) -> RateRanking | None:
    """None for a sweep without a phase at the common rate, or without a rung that two cells passed at both."""
    bits = {(c.phase, c.cell): dict(zip(c.tokens, c.bits_per_byte, strict=True)) for c in curves}
    cells = [cell for cell in figures.cells if {("short", cell.cell), ("common", cell.cell)} <= bits.keys()]
    passed = [set(bits[phase, cell.cell]) for cell in cells for phase in ("short", "common")]
    shared = set.intersection(*passed) if passed else set[int]()
    if len(cells) < 2 or not shared:
        return None
    tokens, names = max(shared), [cell.cell for cell in cells]
    own, common = ([bits[phase, name][tokens] for name in names] for phase in ("short", "common"))
    both = zip(cells, own, ranks(own), common, ranks(common), strict=True)
    rows = [
        AtRates(cell.cell, cell.lr, at, rank, cell.common_lr, other, other_rank)
        for cell, at, rank, other, other_rank in both
    ]
    return RateRanking(
        tokens,
        tuple(sorted(rows, key=lambda row: row.own_rank)),
        agreement(own, common),
        tuple((names[i], names[j]) for i, j in disagreements(own, common)),
    )


def rankings_of(figures: SweepFigures, curves: Sequence[Curve], phases: Sequence[str]) -> list[Ranking]:
    """None for a phase whose cells all have the same FLOPs per token: both rankings are then one."""
    flops = {cell.cell: cell.flops_per_token for cell in figures.cells if cell.flops_per_token}
    ends = {(curve.phase, curve.cell): (curve.tokens[-1], curve.bits_per_byte[-1]) for curve in curves}
    twice = [
        (ends["short", cell], ends["final", cell])
        for cell in flops
        if {("short", cell), ("final", cell)} <= ends.keys()
    ]
    slope = slope_of(twice)
    rankings: list[Ranking] = []
    for phase in phases:
        own = [curve for curve in curves if curve.phase == phase and curve.cell in flops]
        end = max((curve.tokens[-1] for curve in own), default=0)
        whole = {c.cell: list(zip(c.tokens, c.bits_per_byte, strict=True)) for c in own if c.tokens[-1] == end}
        if len(whole) < 2 or len({flops[cell] for cell in whole}) < 2 or phase == "common":
            continue
        found = at_equal_flops(whole, flops, slope)
        kept = {cell: at.bits_per_byte for cell, at in found.items() if at.bits_per_byte is not None}
        tokens_values = [whole[cell][-1][1] for cell in kept]
        flops_values = list(kept.values())
        names = list(kept)
        both = zip(names, tokens_values, ranks(tokens_values), flops_values, ranks(flops_values), strict=True)
        rows = [Ranked(*each, found[each[0]].tokens) for each in both]
        rankings.append(
            Ranking(
                phase=phase,
                tokens=end,
                method="interpolated" if slope is None else "scaled",
                rows=tuple(sorted(rows, key=lambda row: row.tokens_rank)),
                agreement=agreement(tokens_values, flops_values),
                flips=tuple((names[i], names[j]) for i, j in disagreements(tokens_values, flops_values)),
                left_out=tuple(cell for cell in whole if cell not in kept),
            )
        )
    return rankings


def compared_of(ends: dict[str, Sample]) -> list[Compared]:
    found: list[Compared] = []
    for first, second in (("short", "final"), ("short", "common")):
        if first in ends and second in ends:
            one, other = (
                {cell.cell: value for cell, value in zip(each.cells, each.quality_N.tolist(), strict=True)}
                for each in (ends[first], ends[second])
            )
            both = [cell for cell in one if cell in other]
            if len(both) > 1:
                pairs = [one[cell] for cell in both], [other[cell] for cell in both]
                found.append(Compared(first, second, agreement(*pairs)))
    return found
