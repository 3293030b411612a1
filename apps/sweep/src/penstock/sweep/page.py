"""The page of a sweep: what each axis does, fronts, curves, rankings side by side, and every cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.pages.card import Card
from penstock.pages.page import write_page
from penstock.run.records.sweep import SweepFigures
from penstock.sweep.analysis import Analysis
from penstock.sweep.baseline import baseline_cards
from penstock.sweep.charts import axis_chart, curves_chart, front_chart, parallel_chart
from penstock.sweep.labels import PHASES, label
from penstock.sweep.sections import (
    Table,
    cells_table,
    commands_table,
    decisions_table,
    effects_caption,
    front_caption,
    front_table,
    phases_table,
    ranks_table,
    rates_table,
    summary,
)

TEMPLATE = Path(__file__).with_name("sweep.html.j2")
COORDINATES = ("lr", "parameters", "flops_per_token", "latency_128", "bits_per_byte")
"""Figures beside the settings in the parallel coordinates, where cells differ in them."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with cards side by side, and tables below them."""

    title: str
    cards: Sequence[Card] = ()
    tables: Sequence[Table] = ()


def write_sweep_page(name: str, analysis: Analysis, wanted: int, out: Path) -> Path:
    """Atomically writes the page to `out`; `wanted` is the number of runs of the whole sweep."""
    figures = analysis.figures
    sections = [
        Section("Quality and balance", baseline_cards(figures)),
        Section("What each axis does", _axis_cards(analysis)),
        Section("Pareto fronts", _front_cards(analysis), _filled(map(front_table, analysis.objective_fronts[-1:]))),
        Section("Settings together", _parallel_cards(analysis)),
        Section("Curves", _curve_cards(analysis)),
        Section("Do rankings agree?", (), _filled(_rank_tables(analysis))),
        Section("Cells", (), _filled([cells_table(analysis)])),
        Section("Decisions", (), _filled([decisions_table(figures)])),
    ]
    return write_page(
        TEMPLATE,
        out,
        name=name,
        summary=summary(figures, wanted),
        sections=[section for section in sections if section.cards or section.tables],
        commands=commands_table(figures).rows,
    )


def _rank_tables(analysis: Analysis) -> list[Table]:
    own = [rates_table(analysis.at_rates)] if analysis.at_rates else []
    return [phases_table(analysis), *own, *map(ranks_table, analysis.rankings)]


def _filled(tables: Iterable[Table]) -> list[Table]:
    return [table for table in tables if table.rows]


def _axis_cards(analysis: Analysis) -> list[Card]:
    by_axis = {
        axis: [each for each in analysis.effects.levels if each.axis == axis] for axis in _axes(analysis.figures)
    }
    shown = {axis: levels for axis, levels in by_axis.items() if len(levels) > 1}
    caption = effects_caption(analysis)
    return [Card(axis, "bits per byte, lower is better", axis_chart(levels), caption) for axis, levels in shown.items()]


def _axes(figures: SweepFigures) -> list[str]:
    return list(dict.fromkeys(axis for cell in figures.cells for axis in cell.settings))


def _front_cards(analysis: Analysis) -> list[Card]:
    cards: list[Card] = []
    for front in analysis.cost_fronts:
        chart = front_chart(front, analysis.standings[front.phase])
        title = f"Against {label(front.objectives[1])}"
        cards.append(Card(title, f"bits per byte, {PHASES[front.phase]}", chart, front_caption(front)))
    return cards


def _parallel_cards(analysis: Analysis) -> list[Card]:
    cells = [cell for cell in analysis.figures.cells if cell.bits_per_byte is not None and cell.settings]
    whole = [cell for cell in cells if cell.settings.keys() == cells[0].settings.keys()]
    figures = [name for name in COORDINATES if len({getattr(cell, name) for cell in whole} - {None}) > 1]
    if len(whole) < 2:
        return []
    chart = parallel_chart(whole, figures, _best(analysis))
    caption = (
        "A line is a cell. The coloured cells are the best of the last phase. Bits per byte are of each cell's last "
        "result, so stopped cells stand higher."
    )
    return [Card("Parallel coordinates", "low values at the bottom", chart, caption)]


def _best(analysis: Analysis, most: int = 3) -> list[str]:
    """The best cells of the last phase."""
    last = list(analysis.standings.values())[-1] if analysis.standings else ()
    return [each.cell for each in sorted(last, key=lambda each: each.bits_per_byte)[:most]]


def _curve_cards(analysis: Analysis) -> list[Card]:
    stopped = [cell.cell for cell in analysis.figures.cells if cell.state == "stopped"]
    cards: list[Card] = []
    for phase in analysis.standings:
        curves = [curve for curve in analysis.curves if curve.phase == phase]
        if max(len(curve.tokens) for curve in curves) > 1:
            end = max(curve.tokens[-1] for curve in curves)
            chart = curves_chart(curves, _best(analysis), stopped, end)
            caption = "Mean over seeds. The coloured cells are the best of the last phase."
            if any(curve.cell in stopped and curve.tokens[-1] < end for curve in curves):
                caption += " A cross marks where a rule stopped a cell."
            cards.append(Card(PHASES[phase].capitalize(), "bits per byte on held-out text", chart, caption))
    return cards
