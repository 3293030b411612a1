"""The top of a page about several runs: curves on common axes, headline figures, and the settings that differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.pages import charts, drawing, formats, lines
from penstock.pages.card import Card
from penstock.report import captions
from penstock.report.data import Run
from penstock.report.headline import FIGURES, Figure, bits_per_byte
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

    figures: tuple[Figure, ...]
    rows: list[tuple[RunView, list[Cell]]]
    cards: list[Card]
    labels: list[str]
    settings: list[tuple[str, list[str]]]
    unlisted: int
    caption: str


def compare(views: Sequence[RunView]) -> Comparison:
    """Curves on common axes, headline figures side by side, and the settings that differ."""
    names = [view.label for view in views]
    figures = tuple(figure for figure in FIGURES if any(figure.value(view.run) is not None for view in views))
    columns = [_cells(figure, [figure.value(view.run) for view in views]) for figure in figures]
    settings = differences([view.run.config for view in views])
    return Comparison(
        figures=figures,
        rows=[(view, [column[index] for column in columns]) for index, view in enumerate(views)],
        cards=comparison_cards(views),
        labels=names,
        settings=settings[:SETTINGS_SHOWN],
        unlisted=max(0, len(settings) - SETTINGS_SHOWN),
        caption=captions.best_run(names, [bits_per_byte(view.run) for view in views], "held-out bits per byte"),
    )


def _cells(figure: Figure, values: Sequence[float | None]) -> list[Cell]:
    known = {value for value in values if value is not None and math.isfinite(value)}
    best = {"low": min, "high": max}[figure.better](known) if figure.better and len(known) > 1 else None
    return [Cell(figure.show(value), best is not None and value == best) for value in values]


def comparison_cards(views: Sequence[RunView]) -> list[Card]:
    """Loss and held-out bits per byte of all runs, over tokens if every run logged them, else over steps."""
    tokens = all(view.run.metrics is None or "tokens" in view.run.metrics.train for view in views)
    label = "tokens" if tokens else "step"
    train = {view.label: series for view in views if (series := _over(view.run, "loss", tokens))}
    bits = {view.label: series for view in views if (series := _over(view.run, "heldout/bits_per_byte", tokens))}
    cards = []
    if train:
        top = without_start(train.values())
        chart = charts.lines_chart("compared-loss", train, label, top=top, wide=drawing.HALF if bits else drawing.FULL)
        ends = [
            float(series[1][np.isfinite(series[1])][-captions.tenth(series[1]) :].mean()) for series in train.values()
        ]
        text = captions.best_run(list(train), ends, "loss over the last tenth of its run")
        cards.append(
            Card("Loss", "nats per token, smoothed" + (", without the first steps" if top else ""), chart, text)
        )
    if bits:
        chart = charts.lines_chart(
            "compared-bits", bits, label, marked=True, wide=drawing.HALF if train else drawing.FULL
        )
        text = captions.best_run(
            list(bits),
            [float(series[1][np.isfinite(series[1])][-1]) for series in bits.values()],
            "bits per byte at its last evaluation",
        )
        cards.append(Card("Held-out text", "bits per byte", chart, text))
    return cards


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


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all configs, as dotted paths with each config's value.

    >>> differences([{"seed": 0, "model": {"k": 2}}, {"seed": 0, "model": {"k": 4}}])
    [('model.k', ['2', '4'])]
    """
    flat = [dict(_leaves(config)) for config in configs]
    paths = dict.fromkeys(path for settings in flat for path in settings if path != "name")
    rows = [(path, [settings.get(path, formats.DASH) for settings in flat]) for path in paths]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not isinstance(value, dict | list) or not value:
        yield path, value if isinstance(value, str) else json.dumps(value)
    for key, below in items:
        yield from _leaves(below, f"{path}.{key}" if path else str(key))
