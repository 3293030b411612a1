"""The page of `penstock simulate --report`: time against GPUs, load, use of links, the tail of steps, placements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from penstock.netsim.simulate import Picture
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
    cards = [
        Card(
            "Exchange between experts",
            "dispatch and combine",
            network_charts.network_chart(rows),
            network_charts.network_caption(rows),
        ),
        Card(
            "Load of the GPUs",
            f"{last.gpus:,} GPUs, 1 is the mean",
            network_charts.load_chart(last.load),
            _load_caption(last),
        ),
        Card(
            "Tail of the steps",
            "share of steps that take longer",
            network_charts.tail_chart(rows),
            _tail_caption(last),
        ),
    ]
    if drawn is not None and len(drawn.begin_E):
        cards.append(
            Card(
                "Use of links", f"dispatch of layer {drawn.layer}", network_charts.use_chart(drawn), _use_caption(drawn)
            )
        )
    if len(placements) > 1:
        cards.append(
            Card("Placements", "slowdown over balanced", network_charts.placement_chart(placements), _best(placements))
        )
    where = " ".join(filter(None, [result.topology, result.hardware]))
    summary = (
        f"{result.trace} on {where}: {result.fidelity}, {result.placement} placement, "
        f"{result.tokens_per_gpu:,} tokens per GPU of width {result.hidden_size:,}, top-{result.k}."
    )
    return write_page(TEMPLATE, out, name="Network prediction", summary=summary, cards=cards, rows=rows)


def _load_caption(row: NetworkRow) -> str:
    waits = [f"GPU {each.gpu} in {each.share:.0%}" for each in row.stragglers[:3]]
    return (
        f"Bytes that each GPU receives, over all layers and steps. The others wait for {', '.join(waits)} of exchanges."
    )


def _tail_caption(row: NetworkRow) -> str:
    step = row.step_seconds
    if step is None:
        return ""
    return (
        f"At {row.gpus:,} GPUs the exchanges of the median step take {duration(step.p50)}, one step in a hundred takes "
        f"{duration(step.p99)} or more, and the longest takes {duration(step.max)}."
    )


def _use_caption(drawn: Picture) -> str:
    first = float(drawn.finish_G[drawn.finish_G > 0].min(initial=drawn.seconds))
    return (
        f"{len(drawn.finish_G)} GPUs, fluid model: the first GPU finishes after {duration(first)}, the last after "
        f"{duration(drawn.seconds)}. The busiest links are shown."
    )


def _best(placements: Sequence[Simulation]) -> str:
    best = min(placements, key=lambda each: each.rows[-1].slowdown or math.inf)
    row = best.rows[-1]
    return f"At {row.gpus:,} GPUs {best.placement} is closest to even load, at {times(row.slowdown)} the balanced time."
