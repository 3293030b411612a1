"""The section about learning: loss, held-out bits per byte, learning rate, gradient norm and throughput."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from penstock.pages import charts
from penstock.pages.card import Card
from penstock.pages.drawing import FULL, HALF, MAIN, SERIES, SIDE, SMALL, Chart, Column, Key, Series, Size, draw, frame
from penstock.pages.lines import end_labels, points, raw_and_smooth, reference_lines, smoothed
from penstock.report import basis, captions, headline
from penstock.report.data import Run


def main_cards(run: Run) -> list[Card]:
    """Loss and held-out bits per byte."""
    metrics = run.metrics
    train = metrics.series("loss") if metrics else None
    heldout = metrics.series("heldout/loss") if metrics else None
    bits = heldout_bits(run)
    both = bits is not None and (train or heldout)
    cards = []
    if train or heldout:
        chart = loss_chart(train, heldout, MAIN if both else FULL)
        cards.append(Card("Loss", "nats per token", chart, captions.loss(train, heldout)))
    if bits is not None:
        cards.append(Card("Held-out text", "bits per byte", bits_chart(bits, SIDE if both else FULL), bits.caption))
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


@dataclass(frozen=True, slots=True)
class HeldoutBits:
    """Bits per byte of held-out text: `part` over steps while training, and `whole`, one evaluation of all of it."""

    part: Series | None
    whole: tuple[float, float] | None
    part_text: str
    whole_text: str
    baselines: Mapping[str, float]
    caption: str


def heldout_bits(run: Run) -> HeldoutBits | None:
    """Both measurements, which are of different text and so never on one line; None without either."""
    part = run.metrics.series("heldout/bits_per_byte") if run.metrics else None
    value = headline.evaluated_bits(run)
    whole = None if value is None else (evaluated_step(run), value)
    if part is None and whole is None:
        return None
    baselines = run.evaluation.baselines.named if run.evaluation and whole else {}
    texts = basis.heldout_part(run).text, basis.heldout_text(run).text
    words = []
    if whole is not None:
        words.append(captions.whole_text(whole[1], whole[0], texts[1], headline.bits_interval(run), baselines))
    if part is not None:
        words.append(captions.part_of_text(part, texts[0], compared=whole is not None))
    return HeldoutBits(part, whole, *texts, baselines, " ".join(words))


def evaluated_step(run: Run) -> float:
    """The step of the evaluated checkpoint, whose folder is `step-NUMBER`; else the run's last step."""
    number = run.evaluation.checkpoint.rpartition("-")[2] if run.evaluation else ""
    if number.isdecimal():
        return float(number)
    return float(run.status.step or 0) if run.status else 0.0


def bits_chart(bits: HeldoutBits, wide: Size = FULL) -> Chart:
    """The curve of the part, the point of the whole, and the baselines of the whole as horizontal lines."""
    point = None if bits.whole is None else (np.array([bits.whole[0]]), np.array([bits.whole[1]]))

    def plot(axes: Axes, size: Size) -> None:
        drawn, colors = [], []
        if bits.part is not None:
            points(axes, *bits.part, color=SERIES[1], joined=True)
            drawn, colors = [bits.part], [SERIES[1]]
        if point is not None:
            axes.plot(*point, color=SERIES[2], marker="D", markersize=7, linestyle="", zorder=6)
            drawn, colors = [*drawn, point], [*colors, SERIES[2]]
            reference_lines(axes, bits.baselines, bits.part or point)
        frame(axes, size, "step")
        end_labels(axes, drawn, colors)

    keys = (Key(f"{bits.part_text}, in training", 2),) if bits.part is not None else ()
    return draw(plot, "bits-per-byte", (*keys, *((Key("all of it", 3, "dot"),) if point is not None else ())), wide)


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
