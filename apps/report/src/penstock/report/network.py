"""The section about the network: the exchange that `penstock simulate` predicted."""

from __future__ import annotations

from penstock.pages import drawing
from penstock.pages.card import Card
from penstock.report.data import Run
from penstock.simulate import network_charts


def network_cards(run: Run) -> list[Card]:
    """The predicted exchange; empty if the simulation has no rows."""
    rows = sorted(run.simulation.rows, key=lambda row: row.gpus) if run.simulation else []
    if not rows:
        return []
    return [
        Card(
            "Exchange between experts",
            "dispatch and combine",
            network_charts.network_chart(rows),
            network_charts.network_caption(rows),
        )
    ]


def network_details(run: Run) -> list[Card]:
    """Load of the GPUs and tail of the steps; empty if the simulation does not have them."""
    rows = sorted(run.simulation.rows, key=lambda row: row.gpus) if run.simulation else []
    loaded = [row for row in rows if row.load]
    steps = network_charts.with_tail(rows)
    wide = drawing.HALF if loaded and steps else drawing.FULL
    cards: list[Card] = []
    if loaded:
        unit = f"{loaded[-1].gpus:,} GPUs, 1 is the mean"
        caption = "Bytes that each GPU receives, over all layers and steps."
        cards.append(Card("Load of the GPUs", unit, network_charts.load_chart(loaded[-1].load, wide), caption))
    if steps:
        chart = network_charts.tail_chart(steps, wide)
        cards.append(Card("Tail of the steps", "% that take longer", chart, network_charts.steps_caption(steps[-1])))
    return cards
