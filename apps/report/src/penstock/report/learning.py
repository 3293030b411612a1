"""The section about learning: loss, held-out bits per byte, learning rate, gradient norm and throughput."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from penstock.pages import charts
from penstock.pages.card import Card
from penstock.pages.drawing import FULL, HALF, MAIN, SERIES, SIDE, SMALL, Chart, Column, Key, Series, Size, draw, frame
from penstock.pages.lines import end_labels, points, raw_and_smooth, reference_lines, smoothed
from penstock.report import captions
from penstock.report.data import Run


def main_cards(run: Run) -> list[Card]:
    """Loss and held-out bits per byte."""
    metrics, evaluation = run.metrics, run.evaluation
    train = metrics.series("loss") if metrics else None
    heldout = metrics.series("heldout/loss") if metrics else None
    bits = heldout_bits(run)
    both = bits is not None and (train or heldout)
    cards = []
    if train or heldout:
        chart = loss_chart(train, heldout, MAIN if both else FULL)
        cards.append(Card("Loss", "nats per token", chart, captions.loss(train, heldout)))
    if bits is not None:
        baselines = evaluation.baselines.named if evaluation else {}
        chart = bits_per_byte_chart(bits, baselines, SIDE if both else FULL)
        cards.append(
            Card(
                "Held-out text",
                "bits per byte",
                chart,
                captions.bits_per_byte(bits, baselines, whole=evaluation is not None),
            )
        )
    return cards


def loss_chart(train: Series | None, heldout: Series | None, wide: Size = FULL) -> Chart:
    """Training loss, raw and smoothed, with held-out loss as points; nats per token over steps."""

    def plot(axes: Axes, size: Size) -> None:
        if train:
            raw_and_smooth(axes, *train)
        if heldout:
            points(axes, *heldout, color=SERIES[1])
        frame(axes, size, "step")
        if train:
            end_labels(axes, [(train[0], smoothed(train[1]))])

    keys = (Key("each step", 1, "faint"), Key("smoothed", 1)) if train else ()
    return draw(plot, "loss", (*keys, *((Key("held-out", 2, "dot"),) if heldout else ())), wide)


def bits_per_byte_chart(series: Series, baselines: Mapping[str, float], wide: Size = FULL) -> Chart:
    """Held-out bits per byte over steps, with the baselines as horizontal lines."""

    def plot(axes: Axes, size: Size) -> None:
        points(axes, *series, color=SERIES[1], joined=True)
        reference_lines(axes, baselines, series)
        frame(axes, size, "step")
        end_labels(axes, [series])

    return draw(plot, "bits-per-byte", (), wide)


def heldout_bits(run: Run) -> Series | None:
    """Bits per byte while training, measured on a part of the held-out text, up to the evaluation of all of it."""
    series = run.metrics.series("heldout/bits_per_byte") if run.metrics else None
    value = run.evaluation.heldout_bits_per_byte if run.evaluation else None
    if value is None or not math.isfinite(value):
        return series
    steps, values = series if series is not None else (np.empty(0), np.empty(0))
    last = float(run.status.step or 0) if run.status else float(steps.max(initial=0))
    before = steps < last
    return np.append(steps[before], last), np.append(values[before], value)


def small_cards(run: Run) -> list[Card]:
    """Learning rate, gradient norm and throughput."""
    if run.metrics is None:
        return []
    rate = run.metrics.series("learning_rate")
    factor = None if rate else run.metrics.series("learning_rate_factor")
    norm, speed = run.metrics.series("gradient_norm"), run.metrics.series("tokens_per_second")
    wide = row_size(sum(series is not None for series in (rate or factor, norm, speed)))
    cards = []
    if rate or factor:
        series = rate or factor
        assert series is not None
        chart = charts.single_chart("learning-rate", series, from_zero=True, wide=wide)
        cards.append(Card("Learning rate", "" if rate else "factor", chart, captions.learning_rate(series)))
    if norm:
        chart = charts.single_chart("gradient-norm", norm, smooth=True, log=spread(norm[1]) > 30, wide=wide)
        cards.append(Card("Gradient norm", "", chart, captions.gradient_norm(norm)))
    if speed:
        chart = charts.single_chart("throughput", speed, smooth=True, from_zero=True, wide=wide)
        cards.append(Card("Throughput", "tokens per second", chart, captions.throughput(speed)))
    return cards


def row_size(cards: int) -> Size:
    """Width of a card in a row: three share a row; two or four are in pairs."""
    return {1: FULL, 2: HALF, 4: HALF}.get(cards, SMALL)


def spread(values: Column) -> float:
    """Returns the largest value over the median, or 1 if a value is not positive: a log axis cannot show it."""
    finite = values[np.isfinite(values)]
    return float(finite.max() / np.median(finite)) if finite.size and finite.min() > 0 else 1.0
