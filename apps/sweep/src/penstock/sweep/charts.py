"""Charts of a sweep's analysis: effects of axes, fronts, parallel coordinates and curves of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from penstock.pages import drawing
from penstock.pages.drawing import CARD, INK, MUTED, RULE, SERIES, Chart, Key
from penstock.pages.lines import named_points
from penstock.run.records.sweep import CellFigures
from penstock.sweep.analysis import Level, Standing
from penstock.sweep.fronts import Front, Member
from penstock.sweep.labels import label, shown
from penstock.sweep.objectives import objective_of
from penstock.sweep.samples import Curve

FEW = 8
"""Most points of a front that are named: more names cover each other."""
PLACES = 6
"""Most values of an axis whose names fit under a narrow chart."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """One vertical of the parallel coordinates: a height in 0 to 1 for each cell (NaN: unknown), and named heights."""

    name: str
    heights: list[float]
    ticks: list[tuple[float, str]]


def axis_chart(levels: Sequence[Level]) -> Chart:
    """Mean bits per byte of each value of one axis, with the interval of its difference from the mean of all cells."""
    names = [level.value for level in levels]

    def plot(axes: Axes, size: drawing.Size) -> None:
        for place, level in enumerate(levels):
            low, high = (level.bits_per_byte if end is None else end for end in (level.low, level.high))
            reach = [[max(0.0, level.bits_per_byte - low)], [max(0.0, high - level.bits_per_byte)]]
            axes.errorbar(
                [place],
                [level.bits_per_byte],
                yerr=reach,
                color=SERIES[0],
                marker="o",
                markersize=7,
                capsize=4,
                zorder=5,
            )
        axes.plot([level.bits_per_byte for level in levels], color=SERIES[0], linewidth=1, alpha=0.4)
        drawing.frame(axes, size, levels[0].axis)
        axes.xaxis.set_major_locator(FixedLocator(range(len(names))))
        fits = len(names) <= PLACES or size[0] >= 500
        axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: _short(names[round(at)]) if fits else ""))
        axes.set_xlim(-0.4, len(names) - 0.6)
        axes.margins(y=0.15)

    return drawing.draw(plot, f"sweep-axis-{levels[0].axis}", (), drawing.HALF)


def front_chart(front: Front, standings: Sequence[Standing]) -> Chart:
    """Quality over one cost: the front as steps, the other cells hollow, each with its interval."""
    cost, bounds = front.objectives[1], {each.cell: each for each in standings}
    on = sorted((member for member in front.members if member.on_front), key=lambda member: member.values[1])
    off = [member for member in front.members if not member.on_front]

    def mark(axes: Axes, member: Member, color: str, fill: str) -> None:
        quality, at = member.values
        low, high = bounds[member.cell].low, bounds[member.cell].high
        if low is not None and high is not None:
            axes.plot([at, at], [low, high], color=color, linewidth=1.2, alpha=0.55, zorder=3)
        axes.plot([at], [quality], color=color, marker="o", markersize=7, markerfacecolor=fill, linestyle="", zorder=5)

    def plot(axes: Axes, size: drawing.Size) -> None:
        for member in off:
            mark(axes, member, MUTED, CARD)
        for member in on:
            mark(axes, member, SERIES[0], SERIES[0])
        axes.step([m.values[1] for m in on], [m.values[0] for m in on], where="post", color=SERIES[0], linewidth=1.6)
        drawing.frame(axes, size, label(cost))
        axes.xaxis.set_major_locator(MaxNLocator(3 if size[0] < 400 else 4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: axis_cost(cost, value)))
        axes.margins(x=0.12, y=0.15)
        if len(on) <= FEW:
            named_points(axes, [(member.cell, member.values[1], member.values[0]) for member in on])

    keys = (Key("on the front", 1, "dot"),)
    return drawing.draw(plot, f"sweep-front-{front.phase}-{cost}", keys, drawing.HALF)


def curves_chart(curves: Sequence[Curve], bright: Sequence[str], stopped: Sequence[str], end: int) -> Chart:
    """Bits per byte over tokens for every cell of a phase; `bright` cells have colours, and a cross ends each cell that
    was stopped before the `end`."""
    colors = {cell: SERIES[index] for index, cell in enumerate(bright[: len(SERIES)])}

    def plot(axes: Axes, size: drawing.Size) -> None:
        for curve in sorted(curves, key=lambda curve: curve.cell in colors):
            color, lit = colors.get(curve.cell, MUTED), curve.cell in colors
            style = {"linewidth": 2 if lit else 1, "alpha": 1 if lit else 0.55, "zorder": 4 if lit else 2}
            axes.plot(curve.tokens, curve.bits_per_byte, color=color, marker="o", markersize=5 if lit else 3, **style)
            if curve.cell in stopped and curve.tokens[-1] < end:
                axes.plot(curve.tokens[-1:], curve.bits_per_byte[-1:], color=INK, marker="x", markersize=8, zorder=6)
        drawing.frame(axes, size, "tokens")
        axes.margins(x=0.04, y=0.08)

    keys = tuple(Key(cell, index + 1) for index, cell in enumerate(colors))
    return drawing.draw(plot, f"sweep-curves-{curves[0].phase}", keys, drawing.HALF)


def parallel_chart(cells: Sequence[CellFigures], figures: Sequence[str], bright: Sequence[str]) -> Chart:
    """Parallel coordinates: a line for each cell through its settings and `figures`, low at the bottom."""
    scales = [*(_setting_scale(cells, axis) for axis in cells[0].settings), *(_figure_scale(cells, f) for f in figures)]
    colors = {cell: SERIES[index] for index, cell in enumerate(bright[: len(SERIES)])}

    def plot(axes: Axes, size: drawing.Size) -> None:
        for index, cell in enumerate(cells):
            heights = [scale.heights[index] for scale in scales]
            lit = cell.cell in colors
            style = {"linewidth": 2.2 if lit else 1, "alpha": 1 if lit else 0.5, "zorder": 4 if lit else 2}
            axes.plot(range(len(scales)), heights, color=colors.get(cell.cell, MUTED), **style)
        drawing.frame(axes, size, "")
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(NullLocator())
        narrow = size[0] < 600
        for place, scale in enumerate(scales):
            axes.axvline(place, color=RULE, linewidth=1.5, zorder=1)
            for height, text in scale.ticks[:: max(1, len(scale.ticks) // 6)]:
                side = (-4, "right") if place == len(scales) - 1 else (4, "left")
                axes.annotate(
                    text,
                    (place, height),
                    (side[0], 0),
                    textcoords="offset points",
                    ha=side[1],
                    va="center",
                    fontsize=9,
                    color=MUTED,
                    zorder=6,
                    annotation_clip=False,
                )
        axes.xaxis.set_major_locator(FixedLocator(range(len(scales))))
        axes.xaxis.set_major_formatter(
            FuncFormatter(
                lambda at, _: _stacked(scales[round(at)].name, round(at)) if narrow else scales[round(at)].name
            )
        )
        axes.get_xticklabels()[0].set_horizontalalignment("left")
        axes.get_xticklabels()[-1].set_horizontalalignment("right")
        axes.set_xlim(-0.02, len(scales) - 0.98)
        axes.set_ylim(-0.08, 1.08)

    keys = tuple(Key(cell, index + 1) for index, cell in enumerate(colors))
    return drawing.draw(plot, "sweep-parallel", keys, drawing.FULL, (drawing.NARROW[0], 300))


def _setting_scale(cells: Sequence[CellFigures], axis: str) -> _Scale:
    values = list(dict.fromkeys(cell.settings.get(axis, "") for cell in cells))
    height = {value: index / max(1, len(values) - 1) for index, value in enumerate(values)}
    heights = [height[cell.settings.get(axis, "")] for cell in cells]
    return _Scale(_short(axis), heights, [(at, _short(value)) for value, at in height.items()])


def _figure_scale(cells: Sequence[CellFigures], figure: str) -> _Scale:
    values = [objective_of(cell, figure) for cell in cells]
    known = [value for value in values if value is not None]
    low, span = min(known), (max(known) - min(known)) or 1.0
    heights = [math.nan if value is None else (value - low) / span for value in values]
    return _Scale(label(figure), heights, [(0.0, shown(figure, low)), (1.0, shown(figure, max(known)))])


def axis_cost(cost: str, value: float) -> str:
    """A cost on an axis: with its unit if it is a time, else with as many digits as tell ticks apart."""
    return shown(cost, value) if cost.startswith("latency") else drawing.axis_text(value)


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def _stacked(name: str, place: int) -> str:
    """Names of neighbours in a narrow chart on alternate lines, so that they do not meet."""
    return "\n" * (place % 2) + _short(name, 14)
