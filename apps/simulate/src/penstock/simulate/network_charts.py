"""Charts of a simulated network: load of GPUs, the tail of steps, use of links, placements.

Shape suffixes: G GPUs, E events, L links.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from penstock.netsim.simulate import Picture
from penstock.pages import drawing, lines
from penstock.pages.formats import duration, times
from penstock.run.records.simulation import NetworkRow, Simulation


def load_chart(load: Sequence[float]) -> drawing.Chart:
    """The load of each GPU, the busiest first."""
    sorted_G = np.sort(np.asarray(load))[::-1]
    place_G = np.arange(1, len(sorted_G) + 1, dtype=np.float64)

    def plot(axes: Axes, size: drawing.Size) -> None:
        axes.axhline(1, color=drawing.MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.fill_between(place_G, sorted_G, step="mid", color=drawing.SERIES[0], alpha=0.3, linewidth=0)
        axes.step(place_G, sorted_G, where="mid", color=drawing.SERIES[0], linewidth=2)
        axes.set_ylim(0, float(sorted_G.max()) * 1.1)
        drawing.frame(axes, size, "GPUs, busiest first")

    return drawing.draw(plot, "network-load", (), drawing.HALF)


def tail_chart(rows: Sequence[NetworkRow]) -> drawing.Chart:
    """For a few numbers of GPUs, the share of steps above a time, against that time relative to the median."""
    chosen = [row for row in rows if row.step_quantiles[50] > 0][-4:]
    share = np.linspace(100, 0, 101)

    def plot(axes: Axes, size: drawing.Size) -> None:
        for row, color in zip(chosen, drawing.SERIES, strict=False):
            seconds = np.asarray(row.step_quantiles)
            axes.plot(seconds / seconds[50], share, color=color, linewidth=2)
        drawing.frame(axes, size, "time of a step over the median")

    keys = tuple(drawing.Key(f"{row.gpus:,} GPUs", number) for number, row in enumerate(chosen, 1))
    return drawing.draw(plot, "network-tail", keys, drawing.HALF)


def use_chart(drawn: Picture) -> drawing.Chart:
    """Use of the busiest links over the time of one exchange."""
    end_E = np.append(drawn.begin_E[1:], drawn.seconds)
    shown = min(4, len(drawn.links))

    def plot(axes: Axes, size: drawing.Size) -> None:
        for number, color in zip(range(shown), drawing.SERIES, strict=False):
            x = np.column_stack([drawn.begin_E, end_E]).ravel() * 1e6
            y = np.repeat(drawn.use_EL[:, number], 2) * 100
            axes.plot(*lines.decimated(x, y), color=color, linewidth=1.8)
        axes.set_ylim(0, 105)
        drawing.frame(axes, size, "microseconds", y_format=lambda value: f"{value:.0f} %")

    keys = tuple(drawing.Key(name, number) for number, name in enumerate(drawn.links[:shown], 1))
    return drawing.draw(plot, "network-use", keys, drawing.MAIN)


def placement_chart(placements: Sequence[Simulation]) -> drawing.Chart:
    """Slowdown over the number of GPUs, one line per placement."""

    def plot(axes: Axes, size: drawing.Size) -> None:
        for result, color in zip(placements, drawing.SERIES, strict=False):
            slowdowns = [math.nan if row.slowdown is None else row.slowdown for row in result.rows]
            axes.plot([row.gpus for row in result.rows], slowdowns, color=color, linewidth=2, marker="o", markersize=5)
        axes.set_xscale("log", base=2)
        drawing.frame(axes, size, "GPUs")

    keys = tuple(drawing.Key(result.placement, number) for number, result in enumerate(placements, 1))
    return drawing.draw(plot, "network-placements", keys, drawing.HALF)


def network_chart(rows: Sequence[NetworkRow]) -> drawing.Chart:
    """Predicted time of an exchange over the number of GPUs, as recorded and perfectly balanced."""
    gpus = np.array([row.gpus for row in rows], dtype=np.float64)
    measured = np.array([row.mean_seconds for row in rows])
    tail = np.array([math.nan if row.p99_seconds is None else row.p99_seconds for row in rows])
    balanced = np.array([math.nan if row.balanced_seconds is None else row.balanced_seconds for row in rows])

    def plot(axes: Axes, size: drawing.Size) -> None:
        if np.isfinite(tail).any():
            axes.fill_between(gpus, measured, tail, color=drawing.SERIES[0], alpha=0.14, linewidth=0)
        axes.plot(gpus, measured, color=drawing.SERIES[0], linewidth=2, marker="o", markersize=5)
        axes.plot(
            gpus, balanced, color=drawing.SERIES[1], linewidth=1.6, linestyle=(0, (4, 3)), marker="o", markersize=3.5
        )
        axes.set_xscale("log", base=2)
        axes.set_ylim(0, float(np.nanmax(np.concatenate([measured, tail, balanced]))) * 1.18 or 1)
        for row in _annotated(rows, 8 if size[0] > 400 else 4):
            axes.annotate(
                times(row.slowdown),
                (row.gpus, row.mean_seconds),
                (0, 9),
                textcoords="offset points",
                ha="center",
                color=drawing.INK,
                fontweight="bold",
                zorder=6,
            )
        drawing.frame(axes, size, "GPUs", y_format=drawing.axis_duration)
        ticks = gpus if size[0] > 400 else gpus[:: max(1, math.ceil(len(gpus) / 6))]
        axes.xaxis.set_major_locator(FixedLocator([float(tick) for tick in ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.06)

    keys = [drawing.Key("recorded routing, mean", 1)]
    keys += [drawing.Key("up to p99", 1, "band")] if np.isfinite(tail).any() else []
    keys += [drawing.Key("perfectly balanced", 2, "dash")] if np.isfinite(balanced).any() else []
    return drawing.draw(plot, "network", tuple(keys), drawing.MAIN)


def _annotated(rows: Sequence[NetworkRow], most: int) -> list[NetworkRow]:
    known = [row for row in rows if row.slowdown is not None and math.isfinite(row.slowdown)]
    return known[:: -max(1, math.ceil(len(known) / most))]


def network_caption(rows: Sequence[NetworkRow]) -> str:
    last = max(rows, key=lambda row: row.gpus)
    text = f"At {last.gpus:,} GPUs an exchange takes {duration(last.mean_seconds)}"
    if last.balanced_seconds and last.slowdown is not None:
        text += f", {times(last.slowdown)} the {duration(last.balanced_seconds)} of perfectly balanced experts"
    known = [row for row in rows if row.slowdown is not None and math.isfinite(row.slowdown)]
    worst = max(known, key=lambda row: row.slowdown or 0, default=None)
    if worst is not None and worst is not last:
        text += f"; the largest slowdown, {times(worst.slowdown)}, occurs at {worst.gpus:,} GPUs"
    return text + "."
