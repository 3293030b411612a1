"""Turns a run's data into what the template prints: the cards of each section, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from penstock.pages.card import Card
from penstock.report import captions
from penstock.report.answers import TaskView, against_rows, task_views
from penstock.report.balance import Heat, LayerRow, balance_cards, heat, layer_strips
from penstock.report.cost import Bar, Part, bars, size_parts
from penstock.report.data import Run
from penstock.report.headline import Tile, summary, tiles
from penstock.report.learning import heldout_bits, main_cards, small_cards
from penstock.report.network import network_cards, network_details


@dataclass(frozen=True, slots=True)
class Hint:
    """What is missing and which command adds it."""

    what: str
    command: str


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything that the template shows about one run, in the order of the page."""

    run: Run
    label: str
    anchor: str
    summary: str
    tiles: list[Tile]
    main_cards: list[Card]
    small_cards: list[Card]
    heat: Heat | None
    balance_cards: list[Card]
    layer_rows: list[LayerRow]
    layer_legend: tuple[str, str, str] | None
    layer_caption: str
    measured_on: str
    bars: list[Bar]
    sizes: list[Part]
    sizes_caption: str
    tasks: list[TaskView]
    against: list[tuple[str, ...]]
    network: Card | None
    network_details: list[Card]
    command: str
    hints: Mapping[str, list[Hint]]


def view(run: Run, label: str, anchor: str) -> RunView:
    """Draws the charts and writes the captions of one run."""
    strips, layer_legend = layer_strips(run)
    return RunView(
        run=run,
        label=label,
        anchor=anchor,
        summary=summary(run),
        tiles=tiles(run),
        main_cards=scoped(anchor, main_cards(run)),
        small_cards=scoped(anchor, small_cards(run)),
        heat=heat(run),
        balance_cards=scoped(anchor, balance_cards(run)),
        layer_rows=strips,
        layer_legend=layer_legend,
        layer_caption=captions.layers(run.profile) if run.profile else "",
        measured_on=measured_on(run),
        bars=bars(run),
        sizes=size_parts(run),
        sizes_caption=captions.sizes(run.sizes) if run.sizes else "",
        tasks=task_views(run.evaluation, anchor),
        against=against_rows(run.evaluation.against) if run.evaluation and run.evaluation.against else [],
        network=next(iter(scoped(anchor, network_cards(run))), None),
        network_details=scoped(anchor, network_details(run)),
        command=command(run),
        hints=hints(run),
    )


def measured_on(run: Run) -> str:
    """What each task read: its samples and bytes, as far as they are recorded."""
    tasks = run.evaluation.tasks if run.evaluation else {}
    amounts = {name: captions.amount(task.details, task.intervals) for name, task in tasks.items()}
    return "; ".join(f"{amount} ({name})" for name, amount in amounts.items() if amount)


def scoped(anchor: str, cards: Iterable[Card]) -> list[Card]:
    return [Card(card.title, card.unit, card.chart.scoped(anchor), card.caption) for card in cards]


def command(run: Run) -> str:
    """The command line that starts the same run again."""
    if run.environment is None:
        return ""
    return run.environment.command or shlex.join(run.environment.argv)


def hints(run: Run) -> dict[str, list[Hint]]:
    """For each section of the page, what is missing and the command that adds it."""
    where = shlex.quote(str(run.path))
    dense = run.dense
    wanted = (
        ("learning", "training metrics", run.metrics, "penstock train CONFIG"),
        ("learning", "held-out evaluation", heldout_bits(run), f"penstock evaluate {where}"),
        ("balance", "trace of expert load", run.load or dense, "penstock train CONFIG"),
        ("balance", "profile of the layers", run.profile or dense, f"penstock profile {where}"),
        ("cost", "stage times", run.stages, "penstock quickstart"),
        ("cost", "parameter counts", run.status and run.status.parameters, "penstock train CONFIG"),
        ("cost", "size table", run.sizes, "penstock train CONFIG"),
        ("evaluation", "evaluation", run.evaluation, f"penstock evaluate {where}"),
        (
            "network",
            "network prediction",
            (run.simulation and run.simulation.rows) or dense,
            f"penstock simulate {where}",
        ),
        ("reproduce", "record of the environment", run.environment, "penstock train CONFIG"),
        ("reproduce", "resolved config", run.config_text, "penstock train CONFIG"),
        ("reproduce", "plugin lock", run.plugins, "penstock train CONFIG"),
    )
    found: dict[str, list[Hint]] = {section: [] for section, *_ in wanted}
    for section, what, present, line in wanted:
        if present is None or present is False or (isinstance(present, str | list | dict) and not present):
            found[section].append(Hint(what, line))
    return found
