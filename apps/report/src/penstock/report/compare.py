"""The top of a page about several runs: curves on common axes, headline figures, and the settings that differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.pages import charts, drawing, lines
from penstock.pages.card import Card
from penstock.report import basis, captions
from penstock.report.basis import Basis
from penstock.report.data import Run
from penstock.report.headline import EVALUATED, FIGURES, Figure, evaluated_bits
from penstock.report.labels import differences
from penstock.report.view import RunView

SETTINGS_SHOWN = 40
"""Largest number of differing settings listed."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of the comparison table."""

    text: str
    best: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the top of a page about several runs shows."""

    title: str
    figures: tuple[Figure, ...]
    rows: list[tuple[RunView, list[Cell]]]
    cards: list[Card]
    labels: list[str]
    settings: list[tuple[str, list[str]]]
    unlisted: int
    caption: str
    table_caption: str


def compare(views: Sequence[RunView]) -> Comparison:
    """Curves on common axes, headline figures side by side, and the settings that differ."""
    names = [view.label for view in views]
    figures = tuple(figure for figure in FIGURES if any(figure.value(view.run) is not None for view in views))
    columns = [_cells(figure, views) for figure in figures]
    settings = [("run directory", [view.run.path.resolve().name for view in views])]
    settings += differences([view.run.config for view in views])
    own = {view.run.name for view in views}
    return Comparison(
        title=f"{len(views)} runs{f' of {own.pop()}' if len(own) == 1 else ''} compared",
        figures=figures,
        rows=[(view, [column[index] for column in columns]) for index, view in enumerate(views)],
        cards=comparison_cards(views),
        labels=names,
        settings=settings[:SETTINGS_SHOWN],
        unlisted=max(0, len(settings) - SETTINGS_SHOWN),
        caption=_verdict(views),
        table_caption=_basis_caption(views),
    )


def _verdict(views: Sequence[RunView]) -> str:
    """The ranking by bits per byte of all held-out text. Runs of one setting differ by seed, and that is not known."""
    names, bases = [view.label for view in views], [EVALUATED.basis(view.run) for view in views]
    text = captions.ranking(names, [evaluated_bits(view.run) for view in views], bases, "held-out bits per byte")
    return f"{text} Each is one run: how far seeds differ is not measured here." if text else ""


def _basis_caption(views: Sequence[RunView]) -> str:
    """What each column was measured on, and why a column has no best value."""
    sentences = []
    for figure in FIGURES:
        measured = [figure.basis(view.run) for view in views if figure.value(view.run) is not None]
        texts = list(dict.fromkeys(each.text for each in measured if each.text))
        if not figure.better or not measured:
            continue
        same = len({each.key for each in measured}) == 1 and bool(measured[0].key)
        where = f"on {captions.listed(texts)}" if texts else "on what is not recorded"
        sentences.append(f"{figure.name}: {where}" + ("" if same or len(measured) < 2 else ", not all ranked"))
    return "The best value is marked among comparable runs. " + "; ".join(sentences) + "." if sentences else ""


def _cells(figure: Figure, views: Sequence[RunView]) -> list[Cell]:
    """The figure of each run; the best of those with the same basis is marked, unless another shows the same digits."""
    values = [figure.value(view.run) for view in views]
    bases = [figure.basis(view.run) for view in views]
    return [
        Cell(figure.show(value), _is_best(figure, value, own, values, bases))
        for value, own in zip(values, bases, strict=True)
    ]


def _is_best(
    figure: Figure, value: float | None, own: Basis, values: Sequence[float | None], bases: Sequence[Basis]
) -> bool:
    if not figure.better or not own.key or value is None or not math.isfinite(value):
        return False
    rivals = [
        each
        for each, basis in zip(values, bases, strict=True)
        if each is not None and math.isfinite(each) and basis.key == own.key
    ]
    best = {"low": min, "high": max}[figure.better](rivals)
    return value == best and len({figure.show(each) for each in rivals}) > 1


def comparison_cards(views: Sequence[RunView]) -> list[Card]:
    """Loss and held-out bits per byte of all runs, over tokens if every run logged them, else over steps."""
    tokens = all(view.run.metrics is None or "tokens" in view.run.metrics.train for view in views)
    label = "tokens" if tokens else "step"
    train = {view.label: series for view in views if (series := _over(view.run, "loss", tokens))}
    bits = {view.label: series for view in views if (series := _over(view.run, "heldout/bits_per_byte", tokens))}
    wide = drawing.HALF if train and bits else drawing.FULL
    runs = {view.label: view.run for view in views}
    cards = []
    if train:
        top = without_start(train.values())
        chart = charts.lines_chart("compared-loss", train, label, top=top, wide=wide)
        ends = [lines.ending(series[1])[0] for series in train.values()]
        bases = [basis.training_data(runs[name]) for name in train]
        text = captions.ranking(list(train), ends, bases, "training loss at its end")
        unit = "nats per token, smoothed" + (", without the first steps" if top else "")
        cards.append(Card("Loss", unit, chart, _with_hidden(text, train)))
    if bits:
        chart = charts.lines_chart("compared-bits", bits, label, marked=True, wide=wide)
        ends = [float(series[1][np.isfinite(series[1])][-1]) for series in bits.values()]
        bases = [basis.heldout_part(runs[name]) for name in bits]
        text = captions.ranking(list(bits), ends, bases, "bits per byte at its last evaluation in training")
        amounts = captions.listed(list(dict.fromkeys(each.text for each in bases)))
        cards.append(Card("Held-out text, in training", f"bits per byte of {amounts}", chart, _with_hidden(text, bits)))
    return cards


def _with_hidden(text: str, series: Mapping[str, drawing.Series]) -> str:
    """The caption, with a sentence about lines that hide one another."""
    return " ".join(filter(None, [text, captions.coincide(lines.coinciding(series))]))


def without_start(series: Iterable[drawing.Series]) -> float | None:
    """An upper edge that leaves out the first twentieth of each curve, whose fall would flatten what differs later."""
    curves = [lines.smoothed(values[np.isfinite(values)]) for _, values in series]
    later = max(float(curve[len(curve) // 20]) for curve in curves)
    return later if later < 0.9 * max(float(curve.max()) for curve in curves) else None


def _over(run: Run, name: str, tokens: bool) -> drawing.Series | None:
    series = run.metrics.series(name) if run.metrics else None
    seen = run.metrics.series("tokens") if run.metrics and tokens else None
    if series is None or seen is None:
        return series
    return np.interp(series[0], *captions.finite(seen)), series[1]
