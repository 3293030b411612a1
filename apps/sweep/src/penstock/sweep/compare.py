"""What a sweep found: cells against the baseline, paired by seed, as a table and as a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy.stats import t as student

from penstock.cli import output

CONFIDENCE = 0.95
COLUMNS = ("cell", "seeds", "bits/byte", "against", "verdict", "MaxVio", "worst", "dead", "us/token", "ps/FLOP")
HELP = (
    "Bits per byte: mean over seeds; `against` is the mean difference to the baseline with the same seed and its "
    f"{CONFIDENCE:.0%} confidence interval (Student's t over the paired differences). MaxVio, its worst layer and dead "
    "experts are of all held-out tokens; us/token and ps/FLOP of the wall clock of training, a FLOP being 6 an active "
    "parameter and token."
)


def compare(rows: Sequence[Mapping[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """One entry a cell, in the order of the rows, of what is known so far: the means over its seeds, and the paired
    difference to the baseline in bits per byte (negative: better)."""
    by_cell: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by_cell.setdefault(row["cell"], {})[row["seed"]] = row
    against = by_cell.get(baseline, {})
    return [
        {
            "cell": cell,
            "seeds": len(runs),
            **_mean(runs.values(), "bits_per_byte", "max_violation", "max_violation_worst", "dead_experts"),
            "nanoseconds_per_token": 1e9 * _total(runs, "seconds") / _total(runs, "tokens"),
            "picoseconds_per_flop": 1e12 * _total(runs, "seconds") / _total(runs, "flops"),
            "active_parameters": next(iter(runs.values()))["active_parameters"],
            "difference": None
            if cell == baseline
            else paired(
                [
                    (run["bits_per_byte"], against[seed]["bits_per_byte"])
                    for seed, run in runs.items()
                    if seed in against
                ]
            ),
        }
        for cell, runs in by_cell.items()
    ]


def paired(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None] | None:
    """Mean of the differences of pairs with the half width of its confidence interval, which takes two pairs or more;
    None without pairs.

    >>> {name: round(value, 4) for name, value in paired([(1.1, 1.0), (1.2, 1.0), (1.3, 1.0)]).items()}
    {'mean': 0.2, 'half_width': 0.2484}
    """
    differences = [one - other for one, other in pairs]
    if not differences:
        return None
    count = len(differences)
    half = None
    if count > 1:
        half = float(student.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    return {"mean": statistics.fmean(differences), "half_width": half}


def verdict(difference: Mapping[str, float | None] | None) -> str:
    """What an interval allows to say.

    >>> verdict({"mean": -0.02, "half_width": 0.01}), verdict({"mean": -0.02, "half_width": 0.03})
    ('better', 'no difference shown')
    """
    if difference is None:
        return "baseline"
    mean, half = difference["mean"], difference["half_width"]
    if mean is None or half is None:
        return "one seed says nothing"
    if abs(mean) <= half:
        return "no difference shown"
    return "better" if mean < 0 else "worse"


def text(cells: Iterable[Mapping[str, Any]]) -> str:
    """The table that the command prints."""
    return output.table(COLUMNS, map(line, cells)) + f"\n\n{HELP}"


def line(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """A cell's row under `COLUMNS`."""
    return (
        cell["cell"],
        str(cell["seeds"]),
        f"{cell['bits_per_byte']:.4f}",
        interval(cell["difference"]),
        verdict(cell["difference"]),
        *(_figure(cell[name]) for name in ("max_violation", "max_violation_worst")),
        "-" if cell["dead_experts"] is None else f"{cell['dead_experts']:.1f}",
        f"{cell['nanoseconds_per_token'] / 1e3:.1f}",
        f"{cell['picoseconds_per_flop']:.1f}",
    )


def interval(difference: Mapping[str, float | None] | None) -> str:
    """
    >>> interval({"mean": -0.0213, "half_width": 0.01}), interval(None)
    ('-0.0213 \\xb1 0.0100', '')
    """
    if difference is None:
        return ""
    half = difference["half_width"]
    return f"{difference['mean']:+.4f}" + ("" if half is None else f" \xb1 {half:.4f}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mean(runs: Iterable[Mapping[str, Any]], *names: str) -> dict[str, float | None]:
    rows = list(runs)
    return {name: statistics.fmean(row[name] for row in rows) if name in rows[0] else None for name in names}


def _total(runs: Mapping[int, Mapping[str, Any]], name: str) -> float:
    return sum(run[name] for run in runs.values())
