"""Results of a sweep: cells against the baseline, paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from scipy.stats import t as student

from penstock.cli import output
from penstock.run.records.sweep import CellFigures, Difference, SweptRun

CONFIDENCE = 0.95
COLUMNS = ("cell", "seeds", "bits/byte", "against", "verdict", "MaxVio", "worst", "dead", "us/token", "ps/FLOP")
HELP = (
    "Bits per byte: mean over seeds; `against` is the mean difference from the baseline with the same seed and its "
    f"{CONFIDENCE:.0%} confidence interval (Student's t over the paired differences). MaxVio, its worst layer and dead "
    "experts are over all held-out tokens. us/token and ps/FLOP use the wall-clock time of training, with 6 FLOPs per "
    "active parameter and token."
)


def compare(rows: Sequence[SweptRun], baseline: str) -> list[CellFigures]:
    """One entry per cell, in the order of the rows: the means over the seeds finished so far, and the paired difference
    from the baseline in bits per byte (negative: better)."""
    by_cell: dict[str, dict[int, SweptRun]] = {}
    for row in rows:
        by_cell.setdefault(row.cell, {})[row.seed] = row
    against = by_cell.get(baseline, {})
    return [
        _cell(cell, list(runs.values()), None if cell == baseline else paired(_pairs(runs, against)))
        for cell, runs in by_cell.items()
    ]


def _cell(cell: str, runs: Sequence[SweptRun], difference: Difference | None) -> CellFigures:
    seconds = sum(run.seconds for run in runs)
    return CellFigures(
        cell=cell,
        seeds=len(runs),
        bits_per_byte=statistics.fmean(run.bits_per_byte for run in runs),
        max_violation=_mean([run.max_violation for run in runs]),
        max_violation_worst=_mean([run.max_violation_worst for run in runs]),
        dead_experts=_mean([run.dead_experts for run in runs]),
        nanoseconds_per_token=1e9 * seconds / sum(run.tokens for run in runs),
        picoseconds_per_flop=1e12 * seconds / sum(run.flops for run in runs),
        active_parameters=runs[0].active_parameters,
        difference=difference,
    )


def _pairs(runs: Mapping[int, SweptRun], against: Mapping[int, SweptRun]) -> list[tuple[float, float]]:
    """Bits per byte of both cells, for every seed that both have."""
    return [(run.bits_per_byte, against[seed].bits_per_byte) for seed, run in runs.items() if seed in against]


def _mean(values: Sequence[float | None]) -> float | None:
    """None if the cell's model is dense and has no such figure."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def paired(pairs: Sequence[tuple[float, float]]) -> Difference | None:
    """Mean of the paired differences with the half width of its confidence interval, which needs at least two pairs;
    None without pairs.

    >>> found = paired([(1.1, 1.0), (1.2, 1.0), (1.3, 1.0)])
    >>> round(found.mean, 4), round(found.half_width, 4)
    (0.2, 0.2484)
    """
    differences = [one - other for one, other in pairs]
    if not differences:
        return None
    count = len(differences)
    half = None
    if count > 1:
        half = float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    return Difference(statistics.fmean(differences), half)


def verdict(difference: Difference | None) -> str:
    """The conclusion that an interval allows.

    >>> verdict(Difference(-0.02, 0.01)), verdict(Difference(-0.02, 0.03))
    ('better', 'no difference shown')
    """
    if difference is None:
        return "baseline"
    mean, half = difference.mean, difference.half_width
    if half is None:
        return "one seed shows nothing"
    if abs(mean) <= half:
        return "no difference shown"
    return "better" if mean < 0 else "worse"


def text(cells: Iterable[CellFigures]) -> str:
    """The table printed by the command."""
    return output.table(COLUMNS, map(line, cells)) + f"\n\n{HELP}"


def line(cell: CellFigures) -> tuple[str, ...]:
    """A cell's row under `COLUMNS`."""
    return (
        cell.cell,
        str(cell.seeds),
        f"{cell.bits_per_byte:.4f}",
        interval(cell.difference),
        verdict(cell.difference),
        _figure(cell.max_violation),
        _figure(cell.max_violation_worst),
        "-" if cell.dead_experts is None else f"{cell.dead_experts:.1f}",
        f"{cell.nanoseconds_per_token / 1e3:.1f}",
        f"{cell.picoseconds_per_flop:.1f}",
    )


def interval(difference: Difference | None) -> str:
    """
    >>> interval(Difference(-0.0213, 0.01)), interval(None)
    ('-0.0213 \\xb1 0.0100', '')
    """
    if difference is None:
        return ""
    half = difference.half_width
    return f"{difference.mean:+.4f}" + ("" if half is None else f" \xb1 {half:.4f}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
