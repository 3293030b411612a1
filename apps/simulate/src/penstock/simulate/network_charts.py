"""Charts of a simulated network: load of GPUs, the tail of steps, use of links, placements.

Shape suffixes: G GPUs, E events, L links.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from penstock.netsim.simulate import Picture
from penstock.pages import drawing, lines
from penstock.pages.formats import duration, times
from penstock.run.records.simulation import NetworkRow, Simulation


def load_chart(load: Sequence[float], wide: drawing.Size = drawing.HALF) -> drawing.Chart:
    """The load of each GPU, the busiest first."""
    sorted_G = np.sort(np.asarray(load))[::-1]
    place_G = np.arange(1, len(sorted_G) + 1, dtype=np.float64)

    def plot(axes: Axes, size: drawing.Size) -> None:
        axes.axhline(1, color=drawing.MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.fill_between(place_G, sorted_G, step="mid", color=drawing.SERIES[0], alpha=0.3, linewidth=0)
        axes.step(place_G, sorted_G, where="mid", color=drawing.SERIES[0], linewidth=2)
        axes.set_ylim(0, float(sorted_G.max()) * 1.1)
        drawing.frame(axes, size, "GPUs, busiest first")

    return drawing.draw(plot, "network-load", (), wide)


def tail_chart(rows: Sequence[NetworkRow], wide: drawing.Size = drawing.HALF) -> drawing.Chart:
    """For a few numbers of GPUs, the share of steps above a time, against that time relative to the median.

    The rows have quantiles, which few steps have not.
    """
    share = np.linspace(100, 0, 101)
    curves: dict[str, drawing.Series] = {}
    for row in rows[-4:]:
        seconds = np.asarray(row.step_quantiles)
        curves[f"{row.gpus:,} GPUs"] = (seconds / seconds[50], share)
    merged = lines.merged(curves)

    def plot(axes: Axes, size: drawing.Size) -> None:
        for (x, y), color in zip(merged.values(), drawing.SERIES, strict=False):
            axes.plot(x, y, color=color, linewidth=2)
        drawing.frame(axes, size, "time of a step over the median", y_format=lambda value: f"{value:.0f} %")

    return drawing.draw(plot, "network-tail", _keys(merged), wide)


def with_tail(rows: Sequence[NetworkRow]) -> list[NetworkRow]:
    """The rows of enough steps for a tail, with a median that time can be relative to."""
    enough = [row for row in rows if row.step_seconds and row.step_seconds.steps and len(row.step_quantiles) == 101]
    return [row for row in enough if row.step_quantiles[50] > 0]


def use_chart(drawn: Picture, wide: drawing.Size = drawing.HALF) -> drawing.Chart:
    """Use of the busiest links over the time of one exchange; links that are used alike share a line."""
    end_E = np.append(drawn.begin_E[1:], drawn.seconds)
    x = np.column_stack([drawn.begin_E, end_E]).ravel() * 1e6
    curves = {name: (x, np.repeat(drawn.use_EL[:, row], 2) * 100) for row, name in enumerate(drawn.links)}
    merged = dict(list(lines.merged(curves).items())[:4])

    def plot(axes: Axes, size: drawing.Size) -> None:
        for series, color in zip(merged.values(), drawing.SERIES, strict=False):
            axes.plot(*lines.decimated(*series), color=color, linewidth=1.8)
        axes.set_ylim(0, 105)
        drawing.frame(axes, size, "microseconds", y_format=lambda value: f"{value:.0f} %")

    return drawing.draw(plot, "network-use", _keys(merged), wide)


def placement_chart(placements: Sequence[Simulation], wide: drawing.Size = drawing.HALF) -> drawing.Chart:
    """Slowdown over the number of GPUs, one line per placement; placements that are equally slow share a line."""
    merged = lines.merged({result.placement: _slowdowns(result) for result in placements})

    def plot(axes: Axes, size: drawing.Size) -> None:
        for (x, y), color in zip(merged.values(), drawing.SERIES, strict=False):
            axes.plot(x, y, color=color, linewidth=2, marker="o", markersize=5)
        axes.set_xscale("log", base=2)
        drawing.frame(axes, size, "GPUs")
        _gpu_ticks(axes, size, [row.gpus for row in placements[0].rows])

    return drawing.draw(plot, "network-placements", _keys(merged), wide)


def _slowdowns(result: Simulation) -> drawing.Series:
    gpus = np.array([row.gpus for row in result.rows], dtype=np.float64)
    return gpus, np.array([math.nan if row.slowdown is None else row.slowdown for row in result.rows])


def _keys(series: Mapping[str, drawing.Series]) -> tuple[drawing.Key, ...]:
    return tuple(drawing.Key(name, number) for number, name in enumerate(series, 1))


def _gpu_ticks(axes: Axes, size: drawing.Size, gpus: Sequence[int]) -> None:
    """A tick at each number of GPUs, or at some if there is no room for all."""
    every = 1 if size[0] > 400 else max(1, math.ceil(len(gpus) / 6))
    axes.xaxis.set_major_locator(FixedLocator([float(tick) for tick in gpus[::every]]))
    axes.xaxis.set_minor_locator(NullLocator())


def network_chart(rows: Sequence[NetworkRow], wide: drawing.Size = drawing.MAIN) -> drawing.Chart:
    """Predicted time of an exchange over the number of GPUs, as recorded and perfectly balanced."""
    gpus = np.array([row.gpus for row in rows], dtype=np.float64)
    measured = np.array([row.mean_seconds for row in rows])
    slow = [row.max_seconds if row.p99 is None else row.p99 for row in rows]
    tail = np.array([math.nan if seconds is None else seconds for seconds in slow])
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
        _gpu_ticks(axes, size, [row.gpus for row in rows])
        axes.margins(x=0.06)

    keys = [drawing.Key("recorded routing, mean", 1)]
    limit = "the longest" if all(row.p99 is None for row in rows) else "p99"
    keys += [drawing.Key(f"up to {limit}", 1, "band")] if np.isfinite(tail).any() else []
    keys += [drawing.Key("perfectly balanced", 2, "dash")] if np.isfinite(balanced).any() else []
    return drawing.draw(plot, "network", tuple(keys), wide)


def _annotated(rows: Sequence[NetworkRow], most: int) -> list[NetworkRow]:
    known = [row for row in rows if row.slowdown is not None and math.isfinite(row.slowdown)]
    return known[:: -max(1, math.ceil(len(known) / most))]


def network_caption(rows: Sequence[NetworkRow]) -> str:
    last = max(rows, key=lambda row: row.gpus)
    text = f"With {last.gpus:,} GPUs an exchange takes {duration(last.mean_seconds)}"
    if last.balanced_seconds and last.slowdown is not None:
        text += f", {times(last.slowdown)} the {duration(last.balanced_seconds)} of perfectly balanced experts"
    known = [row for row in rows if row.slowdown is not None and math.isfinite(row.slowdown)]
    worst = max(known, key=lambda row: row.slowdown or 0, default=None)
    if worst is not None and worst is not last:
        text += f"; the largest slowdown, {times(worst.slowdown)}, is with {worst.gpus:,} GPUs"
    if last.exchanges:
        text += f". Means are over {last.exchanges:,} exchanges{_in_steps(last)}"
    return text + "."


def _in_steps(row: NetworkRow) -> str:
    steps = row.step_seconds.steps if row.step_seconds else None
    return f" in {steps:,} step{'s' * (steps != 1)}" if steps else ""


def steps_caption(row: NetworkRow) -> str:
    """How long whole steps take, with only those quantiles that the number of steps supports."""
    step = row.step_seconds
    if step is None or not step.steps:
        return ""
    if step.steps == 1:
        return f"With {row.gpus:,} GPUs the exchanges of the one step take {duration(step.max)}."
    text = f"With {row.gpus:,} GPUs the exchanges of the median step take {duration(step.p50)}"
    if step.p99 is not None:
        text += f", one step in a hundred takes {duration(step.p99)} or more,"
    return f"{text} and the longest of {step.steps:,} takes {duration(step.max)}."
