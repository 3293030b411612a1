"""The page of `penstock simulate --report`: time against GPUs, load, use of links, the tail of steps, placements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from penstock.netsim.simulate import Picture
from penstock.pages import drawing
from penstock.pages.card import Card
from penstock.pages.formats import duration, times
from penstock.pages.page import write_page
from penstock.run.records.simulation import NetworkRow, Simulation
from penstock.simulate import network_charts

TEMPLATE = Path(__file__).with_name("network.html.j2")


def write_network_page(result: Simulation, placements: Sequence[Simulation], drawn: Picture | None, out: Path) -> Path:
    """Atomically writes the page about `result` to `out`, and returns `out`."""
    rows = result.rows
    last = max(rows, key=lambda row: row.gpus)
    return write_page(
        TEMPLATE,
        out,
        name="Network prediction",
        summary=_summary(result),
        main_cards=_main_cards(rows, last),
        cards=_detail_cards(rows, placements, drawn),
        rows=rows,
        notes=result.notes,
        tail="longest" if last.p99 is None else "p99",
        caption=f"Dispatch and combine of one layer. {network_charts.steps_caption(last)}",
    )


def _summary(result: Simulation) -> str:
    where = " ".join(filter(None, [result.topology, result.hardware]))
    return (
        f"{result.trace} on {where}: {result.fidelity}, {result.placement} placement, "
        f"{result.tokens_per_gpu:,} tokens per GPU of width {result.hidden_size:,}, top-{result.k} of "
        f"{result.experts:,} experts. A model's estimate, not a measurement."
    )


def _main_cards(rows: Sequence[NetworkRow], last: NetworkRow) -> list[Card]:
    exchange = network_charts.network_chart(rows, drawing.HALF)
    return [
        Card("Exchange between experts", "dispatch and combine", exchange, network_charts.network_caption(rows)),
        Card(
            "Load of the GPUs",
            f"{last.gpus:,} GPUs, 1 is the mean",
            network_charts.load_chart(last.load),
            _load_caption(last),
        ),
    ]


def _detail_cards(rows: Sequence[NetworkRow], placements: Sequence[Simulation], drawn: Picture | None) -> list[Card]:
    """Those of the tail, the links and the placements that there is something to show of, as wide as their row."""
    tails = network_charts.with_tail(rows)
    use = drawn if drawn is not None and len(drawn.begin_E) else None
    several = placements if len(placements) > 1 else []
    wide = {1: drawing.FULL, 2: drawing.HALF}.get(sum(map(bool, (tails, use, several))), drawing.SMALL)
    cards: list[Card] = []
    if tails:
        chart = network_charts.tail_chart(tails, wide)
        cards.append(Card("Tail of the steps", "% that take longer", chart, network_charts.steps_caption(tails[-1])))
    if use is not None:
        chart = network_charts.use_chart(use, wide)
        cards.append(Card("Use of links", f"dispatch of layer {use.layer}", chart, _use_caption(use)))
    if several:
        chart = network_charts.placement_chart(several, wide)
        cards.append(Card("Placements", "slowdown over balanced", chart, _best(several)))
    return cards


def _load_caption(row: NetworkRow) -> str:
    waits = [f"GPU {each.gpu} in {each.share:.0%}" for each in row.stragglers[:3]]
    return (
        f"Bytes that each GPU receives, over all layers and steps. The others wait for {', '.join(waits)} of exchanges."
    )


def _use_caption(drawn: Picture) -> str:
    first = float(drawn.finish_G[drawn.finish_G > 0].min(initial=drawn.seconds))
    return (
        f"{len(drawn.finish_G)} GPUs, fluid model: the first GPU finishes after {duration(first)}, the last after "
        f"{duration(drawn.seconds)}. The busiest links are shown; those that are used alike share a line."
    )


def _best(placements: Sequence[Simulation]) -> str:
    """The placement closest to even load at the largest number of GPUs, or those that show the same digits."""
    slowdowns = {each.placement: each.rows[-1].slowdown or math.inf for each in placements}
    least = min(slowdowns.values())
    best = [name for name, slowdown in slowdowns.items() if times(slowdown) == times(least)]
    gpus, verb = placements[0].rows[-1].gpus, "is" if len(best) == 1 else "are"
    return f"With {gpus:,} GPUs {' and '.join(best)} {verb} closest to even load, {times(least)} the balanced time."
