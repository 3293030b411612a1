"""Charts of a simulated network: load of GPUs, the tail of steps, use of links, placements.

Shape suffixes: G GPUs, E events, L links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from penstock.evaluate.report import charts
from penstock.netsim.simulate import Picture


def load_chart(load: Sequence[float]) -> charts.Chart:
    """What each GPU gets, the busiest first."""
    sorted_G = np.sort(np.asarray(load))[::-1]
    place_G = np.arange(1, len(sorted_G) + 1, dtype=np.float64)

    def plot(axes: Axes, size: charts.Size) -> None:
        axes.axhline(1, color=charts.MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.fill_between(place_G, sorted_G, step="mid", color=charts.SERIES[0], alpha=0.3, linewidth=0)
        axes.step(place_G, sorted_G, where="mid", color=charts.SERIES[0], linewidth=2)
        axes.set_ylim(0, float(sorted_G.max()) * 1.1)
        charts.frame(axes, size, "GPUs, busiest first")

    return charts.draw(plot, "network-load", (), charts.HALF)


def tail_chart(rows: Sequence[Mapping[str, Any]]) -> charts.Chart:
    """For a few numbers of GPUs, the share of steps that take longer than a time, over that time over the median."""
    chosen = [row for row in rows if row["step_quantiles"][50] > 0][-4:]
    share = np.linspace(100, 0, 101)

    def plot(axes: Axes, size: charts.Size) -> None:
        for row, color in zip(chosen, charts.SERIES, strict=False):
            seconds = np.asarray(row["step_quantiles"])
            axes.plot(seconds / seconds[50], share, color=color, linewidth=2)
        charts.frame(axes, size, "time of a step over the median")

    keys = tuple(charts.Key(f"{row['gpus']:,} GPUs", number) for number, row in enumerate(chosen, 1))
    return charts.draw(plot, "network-tail", keys, charts.HALF)


def use_chart(drawn: Picture) -> charts.Chart:
    """Use of the busiest links over the time of one exchange."""
    end_E = np.append(drawn.begin_E[1:], drawn.seconds)
    shown = min(4, len(drawn.links))

    def plot(axes: Axes, size: charts.Size) -> None:
        for number, color in zip(range(shown), charts.SERIES, strict=False):
            x = np.column_stack([drawn.begin_E, end_E]).ravel() * 1e6
            y = np.repeat(drawn.use_EL[:, number], 2) * 100
            axes.plot(*charts.decimated(x, y), color=color, linewidth=1.8)
        axes.set_ylim(0, 105)
        charts.frame(axes, size, "microseconds", y_format=lambda value: f"{value:.0f} %")

    keys = tuple(charts.Key(name, number) for number, name in enumerate(drawn.links[:shown], 1))
    return charts.draw(plot, "network-use", keys, charts.MAIN)


def placement_chart(placements: Sequence[Mapping[str, Any]]) -> charts.Chart:
    """Slowdown over the number of GPUs, a line a placement."""

    def plot(axes: Axes, size: charts.Size) -> None:
        for result, color in zip(placements, charts.SERIES, strict=False):
            gpus = [row["gpus"] for row in result["rows"]]
            axes.plot(
                gpus, [row["slowdown"] for row in result["rows"]], color=color, linewidth=2, marker="o", markersize=5
            )
        axes.set_xscale("log", base=2)
        charts.frame(axes, size, "GPUs")

    keys = tuple(charts.Key(str(result["placement"]), number) for number, result in enumerate(placements, 1))
    return charts.draw(plot, "network-placements", keys, charts.HALF)
