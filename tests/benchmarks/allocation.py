"""How a million parameters are best shared out between embedding and layers, with depth held fixed and with depth
changing too.

Runs `configs/sweeps/allocation-1m.yaml`, whose vocabulary moves the share at five layers, and
`allocation-1m-confounded.yaml`, where a larger share of one vocabulary means fewer layers. Each has 12 cells: three
shares by four expansions. A sweep that `--runs` has is continued or only read; `--sweep` names one of the two. The page
of the first, `docs/allocation.md`, is written from the result with `--store`.

A share is compared with the next at equal expansion, and an expansion with the next at equal share, all cells after the
same tokens of the short phase, so that a mean has an interval over the cells of the other axis (Student's t, 95 %).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from measure import RESULTS, Bar, finish, json_option, runs_option

from penstock.evaluate.paired import half_width
from penstock.hooks.architecture import architecture_settings
from penstock.hooks.registry import Registry
from penstock.run.records.record import read_record
from penstock.run.records.sweep import CellFigures, SweepFigures
from penstock.sweep.grid import Cell, load_sweep

ROOT = Path(__file__).parents[2]
SWEEPS = {"depth fixed": "allocation-1m", "depth follows the share": "allocation-1m-confounded"}
PAGE = ROOT / "docs" / "allocation.md"
POINTS = 0.02
"""How far a cell may be from its share."""
TIMED = {"allocation-1m": 60}
"""Minutes that a sweep may take, on two cores that do nothing else."""
Row = dict[str, Any]


def swept(name: str, runs: Path) -> tuple[SweepFigures, float]:
    """The figures of a sweep that is finished first, and the seconds from its command to its last result, the data's
    preparation and pauses included."""
    runs.mkdir(parents=True, exist_ok=True)
    begun = runs / f"{name}.begun"
    if not begun.exists():
        begun.touch()
    file = ROOT / "configs" / "sweeps" / f"{name}.yaml"
    command = [str(Path(sys.executable).with_name("penstock")), "sweep", str(file), "--runs", str(runs)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    figures = read_record(SweepFigures, runs / name / "sweep.json")
    assert figures is not None
    times = [path.stat().st_mtime for path in (runs / name / "cells").rglob("*.json")]
    return figures, max(times) - begun.stat().st_mtime


def rows_of(design: str, figures: SweepFigures, cells: Mapping[str, Cell]) -> list[Row]:
    """A row for each cell: what its model has, and its bits per byte after the furthest tokens that all cells came in
    the short phase, and at the end."""
    passed = [{each.tokens for each in figures.rungs if _is_short(each, cell.cell)} for cell in figures.cells]
    tokens = max(set.intersection(*passed))
    found = {each.cell: each for each in figures.rungs if _is_short(each, each.cell) and each.tokens == tokens}
    return [_row(design, cell, cells[cell.cell], tokens, found[cell.cell].bits_per_byte) for cell in figures.cells]


def _is_short(result: Any, cell: str) -> bool:
    return result.phase in ("short", "all") and result.cell == cell


def _row(design: str, figures: CellFigures, cell: Cell, tokens: int, bits: float) -> Row:
    sizes: Any = architecture_settings(cell.config.model)
    final = figures.phase == "final"
    return {
        "design": design,
        "share": figures.settings["share"],
        "expansion": figures.settings["expansion"],
        "reached share": figures.embedding_share,
        "parameters": figures.parameters,
        "layers": sizes.num_hidden_layers,
        "width": sizes.hidden_size,
        "vocabulary": cell.config.data.tokenizer.vocab_size,
        "FLOPs a token": figures.flops_per_token,
        "tokens": tokens,
        "bits per byte": bits,
        "final tokens": figures.tokens if final else None,
        "final bits per byte": figures.bits_per_byte if final else None,
        "latency of 128": figures.latency_128,
        "peak memory": figures.peak_memory,
    }


def compared(rows: Sequence[Row], axis: str, other: str) -> list[Row]:
    """The values of an axis, best first: the mean over the other axis, and of all but the best how much more bits per
    byte they take than the best, with the half width of its interval."""
    values = list(dict.fromkeys(row[axis] for row in rows))
    bits = {(row[axis], row[other]): row["bits per byte"] for row in rows}
    others = list(dict.fromkeys(row[other] for row in rows))
    means = {value: sum(bits[value, each] for each in others) / len(others) for value in values}
    best, *rest = sorted(values, key=lambda value: means[value])
    found: list[Row] = [{"value": best, "bits per byte": means[best], "behind": None, "+-": None}]
    for value in rest:
        behind = [bits[value, each] - bits[best, each] for each in others]
        row = {"value": value, "bits per byte": means[value], "behind": sum(behind) / len(behind)}
        found.append({**row, "+-": half_width(behind)})
    return found


def page(result: Row) -> str:
    """The text of `docs/allocation.md`."""
    rows: list[Row] = result["rows"]
    parts = [
        "# A million parameters shared out\n\n"
        "Where do a small model's parameters belong, in its embedding or in its layers, and how wide should its gated "
        "layers be? Twelve cells answer twice: with five layers in each, where the vocabulary moves the share, and "
        "with one vocabulary, where a larger share leaves fewer layers. Only the first trains its best "
        "cells to the end. Written by `tests/benchmarks/allocation.py` "
        f"from what it measured ({result['date']}, {result['machine']}, commit {result['commit']})."
    ]
    for design in dict.fromkeys(row["design"] for row in rows):
        own = [row for row in rows if row["design"] == design]
        facts = result["sweeps"][design]
        parts.append(
            f"## {design.capitalize()}\n\n`penstock sweep configs/sweeps/{facts['name']}.yaml`: "
            f"{facts['hours']:.1f} hours of training over {facts['runs']} runs. {_states(facts['states'])}"
        )
        parts.append(_table(CELLS, [[_shown(name, row[name]) for name in CELLS.values()] for row in own]))
        for axis, other in (("share", "expansion"), ("expansion", "share")):
            named = [
                [each["value"], f"{each['bits per byte']:.4f}", _behind(each["behind"], each["+-"])]
                for each in compared(own, axis, other)
            ]
            columns = {axis: "", "bits per byte": "", "behind the best": ""}
            parts.append(f"### {axis.capitalize()}\n\n{_table(columns, named)}")
    parts.append(
        "A share is compared at equal expansion and an expansion at equal share, after the tokens of the table and "
        "with one seed. Intervals are of 95 %, over the cells of the other axis. Cells with more layers or a larger "
        "vocabulary compute more a token; the sweep's own report ranks at equal FLOPs too."
    )
    return "\n\n".join(parts) + "\n"


CELLS = {
    "share": "share",
    "expansion": "expansion",
    "reached": "reached share",
    "parameters": "parameters",
    "layers": "layers",
    "width": "width",
    "vocabulary": "vocabulary",
    "tokens": "tokens",
    "bits per byte": "bits per byte",
    "at the end": "final bits per byte",
    "latency of 128 tokens": "latency of 128",
}
"""Columns of the page, and of a row."""


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "reached share":
        return f"{100 * value:.1f} %"
    if name == "latency of 128":
        return f"{1000 * value:.1f} ms"
    if name.endswith("bits per byte"):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _behind(mean: float | None, half: float | None) -> str:
    """
    >>> _behind(None, None), _behind(0.01234, 0.0051)
    ('best', '0.0123 ± 0.0051')
    """
    return "best" if mean is None else f"{mean:.4f} \xb1 {half or 0:.4f}"


def _states(states: Mapping[str, int]) -> str:
    """
    >>> _states({"finished": 3, "stopped": 9})
    '3 cells finished, 9 cells stopped.'
    """
    return ", ".join(f"{count} cells {state}" for state, count in states.items()) + "."


def _table(columns: Mapping[str, Any], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] + ["--:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@click.command(help=__doc__)
@click.option("--sweep", "chosen", multiple=True, type=click.Choice(list(SWEEPS.values())), help="Default: both.")
@runs_option
@json_option
def main(chosen: tuple[str, ...], runs: Path | None, as_json: bool) -> None:
    runs = runs or Path(tempfile.mkdtemp(prefix="penstock-allocation-"))
    registry = Registry.discover()
    rows: list[Row] = []
    facts: dict[str, Row] = {}
    bars: list[Bar] = []
    for design, name in SWEEPS.items():
        if chosen and name not in chosen:
            continue
        figures, seconds = swept(name, runs)
        cells = {cell.name: cell for cell in load_sweep(ROOT / "configs" / "sweeps" / f"{name}.yaml", registry).cells}
        own = rows_of(design, figures, cells)
        rows += own
        spent = figures.spent
        states = [cell.state for cell in figures.cells]
        facts[design] = {
            "name": name,
            "hours": spent.hours if spent else None,
            "runs": spent.runs if spent else None,
            "seconds": seconds,
            "states": {state: states.count(state) for state in dict.fromkeys(states)},
            "effects": {
                axis: compared(own, axis, other) for axis, other in (("share", "expansion"), ("expansion", "share"))
            },
        }
        off = max(abs(row["reached share"] - int(row["share"].split()[0]) / 100) for row in own)
        bars.append(Bar(f"{design}: how far a share is from what was asked", off, POINTS, at_least=False))
        if name in TIMED:
            bars.append(Bar(f"{design}: minutes", seconds / 60, TIMED[name], at_least=False))
    try:
        finish("allocation", rows, bars, as_json, sweeps=facts)
    finally:
        kept = RESULTS / "allocation.json"
        if kept.exists():
            PAGE.write_text(page(json.loads(kept.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
