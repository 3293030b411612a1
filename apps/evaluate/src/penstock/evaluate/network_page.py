"""The page of `penstock simulate --report`: time against GPUs, load, use of links, the tail of steps, placements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from penstock.evaluate.report import captions, charts
from penstock.evaluate.report.data import NetworkRow
from penstock.evaluate.report.formats import duration, times
from penstock.evaluate.report.page import write_page
from penstock.evaluate.report.view import Card
from penstock.netsim.simulate import Picture

Result = Mapping[str, Any]
_FIELDS = ("gpus", "mean_seconds", "nodes", "p99_seconds", "balanced_seconds", "slowdown")


def write_network_page(result: Result, placements: Sequence[Result], drawn: Picture | None, out: Path) -> Path:
    """Writes the page about `result` to `out`, whole or not at all, and returns `out`."""
    rows = [NetworkRow(**{name: row[name] for name in _FIELDS}) for row in result["rows"]]
    last = max(result["rows"], key=lambda row: row["gpus"])
    cards = [
        Card("Exchange between experts", "dispatch and combine", charts.network_chart(rows), captions.network(rows)),
        Card(
            "Load of the GPUs", f"{last['gpus']:,} GPUs, 1 is the mean", load_chart(last["load"]), _load_caption(last)
        ),
        Card("Tail of the steps", "share of steps that take longer", tail_chart(result["rows"]), _tail_caption(last)),
    ]
    if drawn is not None and len(drawn.begin_E):
        cards.append(Card("Use of links", f"dispatch of layer {drawn.layer}", use_chart(drawn), _use_caption(drawn)))
    if len(placements) > 1:
        cards.append(Card("Placements", "slowdown over balanced", placement_chart(placements), _best(placements)))
    where = " ".join(filter(None, [result["topology"], result["hardware"]]))
    summary = (
        f"{result['trace']} on {where}: {result['fidelity']}, {result['placement']} placement, "
        f"{result['tokens_per_gpu']:,} tokens a GPU of width {result['hidden_size']:,}, top-{result['k']}."
    )
    return write_page("network.html.j2", out, name="Network prediction", summary=summary, cards=cards, rows=rows)


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


def placement_chart(placements: Sequence[Result]) -> charts.Chart:
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


def _load_caption(row: Mapping[str, Any]) -> str:
    waits = [f"GPU {each['gpu']} in {each['share']:.0%}" for each in row["stragglers"][:3]]
    return (
        f"Bytes that each GPU gets, over all layers and steps. The others wait for {', '.join(waits)} of the exchanges."
    )


def _tail_caption(row: Mapping[str, Any]) -> str:
    step = row["step_seconds"]
    return (
        f"At {row['gpus']:,} GPUs a step's exchanges take {duration(step['p50'])}, one in a hundred steps "
        f"{duration(step['p99'])} or more, the longest {duration(step['max'])}."
    )


def _use_caption(drawn: Picture) -> str:
    first = float(drawn.finish_G[drawn.finish_G > 0].min(initial=drawn.seconds))
    return (
        f"{len(drawn.finish_G)} GPUs, fluid model: the first GPU is done after {duration(first)}, the last after "
        f"{duration(drawn.seconds)}. The busiest links are shown."
    )


def _best(placements: Sequence[Result]) -> str:
    ends = {str(result["placement"]): result["rows"][-1]["slowdown"] for result in placements}
    name = min(ends, key=lambda each: ends[each])
    return f"At {placements[0]['rows'][-1]['gpus']:,} GPUs {name} comes closest to even, {times(ends[name])} balanced."
