"""Results of a sweep: cells against the baseline, paired by seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from penstock.cli import output
from penstock.evaluate.paired import CONFIDENCE, FEWEST_PAIRS, paired
from penstock.pages.formats import digits_for, size
from penstock.run.records.sweep import CellFigures, Difference, SweepFigures, SweptRun

COLUMNS = ("cell", "seeds", "bits/byte", "against", "verdict", "MaxVio", "worst", "dead", "us/token", "ps/FLOP")
HELP = (
    "Bits per byte: mean over seeds; `against` is the mean difference from the baseline with the same seed and its "
    f"{CONFIDENCE:.0%} confidence interval (Student's t over n paired differences, n >= {FEWEST_PAIRS}). MaxVio, its "
    "worst layer and dead experts are over all held-out tokens. us/token and ps/FLOP use the wall-clock time of "
    "training, and FLOPs as `penstock plan` counts them: a shared weight for each use, attention, and no lookup."
)


BASELINE, STAND_IN = "baseline", "in place of the baseline"
"""Verdicts of the cell that the others are compared with."""


def stand_in(rows: Sequence[SweptRun], baseline: str) -> str:
    """The cell to compare with when the baseline will not have runs to the end: the best of those with most seeds. It
    is the baseline itself if that has such runs, or if no cell has."""
    bits: dict[str, list[float]] = {}
    for row in rows:
        bits.setdefault(row.cell, []).append(row.bits_per_byte)
    if baseline in bits or not bits:
        return baseline
    return min(bits, key=lambda cell: (-len(bits[cell]), statistics.fmean(bits[cell]), cell))


def reference_text(result: SweepFigures) -> str:
    """Which cell the others are compared with."""
    if result.compared_with is None:
        return f"Baseline: {result.baseline}."
    return (
        f"The baseline, {result.baseline}, has no run to the end, so differences are from {result.compared_with}, the "
        "best of the cells with the most seeds. It was chosen by these results, which makes the others look worse."
    )


def compare(rows: Sequence[SweptRun], baseline: str, reference: str | None = None) -> list[CellFigures]:
    """One entry per cell, in the order of the rows: the means over the seeds finished so far, and the paired difference
    from the reference in bits per byte (negative: better), which is the baseline unless another cell stands in."""
    reference = reference or baseline
    by_cell: dict[str, dict[int, SweptRun]] = {}
    for row in rows:
        by_cell.setdefault(row.cell, {})[row.seed] = row
    against = by_cell.get(reference, {})
    own = BASELINE if reference == baseline else STAND_IN
    return [_cell(cell, runs, None if cell == reference else against, own) for cell, runs in by_cell.items()]


def _cell(cell: str, by_seed: Mapping[int, SweptRun], against: Mapping[int, SweptRun] | None, own: str) -> CellFigures:
    """`against` holds the reference's runs; None for the reference itself, whose verdict is `own`."""
    runs = list(by_seed.values())
    difference = None if against is None else paired(_pairs(by_seed, against))
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
        verdict=own if against is None else verdict(difference) if difference else _unpaired(by_seed, against),
    )


def _unpaired(runs: Mapping[int, SweptRun], against: Mapping[int, SweptRun]) -> str:
    """Why a cell has no difference to the baseline."""
    return "other held-out text" if runs.keys() & against.keys() else "no pair yet"


def _pairs(runs: Mapping[int, SweptRun], against: Mapping[int, SweptRun]) -> list[tuple[float, float]]:
    """Bits per byte of both cells, for every seed with which both were measured on the same held-out text."""
    both = [(run, against[seed]) for seed, run in runs.items() if seed in against]
    return [(one.bits_per_byte, other.bits_per_byte) for one, other in both if one.text == other.text]


def _mean(values: Sequence[float | None]) -> float | None:
    """None if the cell's model is dense and has no such figure."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def verdict(difference: Difference) -> str:
    """The conclusion that an interval allows, with the number of pairs.

    >>> verdict(Difference(-0.02, 0.01, 3)), verdict(Difference(-0.02, 0.03, 3)), verdict(Difference(-0.02, None, 2))
    ('better (n = 3)', 'no difference shown (n = 3)', 'too few seeds (n = 2)')
    """
    mean, half, n = difference.mean, difference.half_width, f" (n = {difference.pairs})"
    if half is None:
        return f"too few seeds{n}"
    if abs(mean) <= half:
        return f"no difference shown{n}"
    return ("better" if mean < 0 else "worse") + n


def text(result: SweepFigures) -> str:
    """The table printed by the command."""
    rows = [*map(line, result.cells), *missing_lines(result)]
    instead = "" if result.compared_with is None else reference_text(result)
    return "\n\n".join(filter(None, [output.table(COLUMNS, rows), HELP, instead, basis(result.runs)]))


def basis(runs: Sequence[SweptRun]) -> str:
    """What the figures were measured on: seeds, held-out text and machine."""
    if not runs:
        return ""
    seeds = ", ".join(map(str, dict.fromkeys(run.seed for run in runs)))
    texts = {run.text: run.text_bytes for run in runs if run.text is not None}
    sizes = sorted({each for each in texts.values() if each is not None})
    parts = [f"Seeds {seeds}"]
    if sizes:
        span = size(sizes[0]) if len(sizes) == 1 else f"{size(sizes[0])} to {size(sizes[-1])}"
        several = f", {len(texts)} different texts, so cells do not compare" if len(texts) > 1 else ""
        parts.append(f"{span} of held-out text{several}")
    machines = list(dict.fromkeys(run.machine for run in runs if run.machine))
    if machines:
        parts.append("trained on " + " and ".join(machines))
    if len(machines) > 1:
        parts.append("so times of cells do not compare")
    return "; ".join(parts) + "."


def missing_lines(result: SweepFigures) -> list[tuple[str, ...]]:
    """A row for each cell without any figures, which says why."""
    measured = {cell.cell for cell in result.cells}
    whys: dict[str, str] = {}
    for run in result.missing:
        if run.cell not in measured:
            whys.setdefault(run.cell, run.why)
    return [(cell, "0", "-", "", why, *["-"] * (len(COLUMNS) - 5)) for cell, why in whys.items()]


def line(cell: CellFigures) -> tuple[str, ...]:
    """A cell's row under `COLUMNS`."""
    return (
        cell.cell,
        str(cell.seeds),
        _figure(cell.bits_per_byte, 3),
        interval(cell.difference),
        f"{cell.verdict}; capped" if cell.state == "capped" and "capped" not in cell.verdict else cell.verdict,
        _figure(cell.max_violation),
        _figure(cell.max_violation_worst),
        _figure(cell.dead_experts, 1),
        "-" if cell.nanoseconds_per_token is None else f"{cell.nanoseconds_per_token / 1e3:.1f}",
        _figure(cell.picoseconds_per_flop, 1),
    )


def interval(difference: Difference | None) -> str:
    """
    >>> interval(Difference(-0.0213, 0.0104, 3)), interval(None)
    ('-0.021 \\xb1 0.010', '')
    """
    if difference is None:
        return ""
    half = difference.half_width
    if half is None:
        return f"{difference.mean:+.3f}"
    digits = digits_for(half) if half else 4
    return f"{difference.mean:+.{digits}f} \xb1 {half:.{digits}f}"


def _figure(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
