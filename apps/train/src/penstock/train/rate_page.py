"""The page of `penstock train --lr-find`: the ramps of each rule, with the suggestion and its interval."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from penstock.pages.card import Card
from penstock.pages.drawing import HALF, INK, MUTED, SERIES, Chart, Key, Size, axis_text, draw, frame
from penstock.pages.lines import line
from penstock.pages.page import write_page
from penstock.run.records.rates import FoundRate, FoundRates
from penstock.train.rate_curve import WIDEST, smoothed

TEMPLATE = Path(__file__).with_name("rates.html.j2")
COLUMNS = ("rule", "setting", "in the config", "suggested", "95 % interval")
CAPTION = (
    "The geometric mean of the rates at which the smoothed loss falls fastest, one of each seed, with Student's "
    "interval of the mean of their logarithms. No rate is suggested where the interval is wider than a factor of "
    f"{WIDEST:g}. It is a place to start from: the best rate of a long run is often lower."
)


def write_rates_page(found: FoundRates, out: Path) -> Path:
    """Atomically writes the page to `out`."""
    return write_page(
        TEMPLATE,
        out,
        name=found.name,
        summary=f"{found.steps:,} steps of {found.tokens:,} tokens in all, from new weights each time.",
        cards=[_card(rate) for rate in found.rates],
        columns=COLUMNS,
        rows=[row(rate) for rate in found.rates],
        caption=CAPTION,
    )


def row(rate: FoundRate) -> tuple[str, ...]:
    """The cells of a rule's line in the table."""
    within = "-" if rate.low is None or rate.high is None else f"{short(rate.low)} to {short(rate.high)}"
    return rate.rule, rate.setting, short(rate.now), suggestion(rate), within


def suggestion(rate: FoundRate) -> str:
    """The rate that the seeds suggest, or the reason why they suggest no rate."""
    if rate.suggested is not None:
        return short(rate.suggested)
    return "-" if all(curve.suggested is None for curve in rate.curves) else "none: the seeds disagree"


def short(rate: float) -> str:
    """A rate with the digits that a suggestion deserves.

    >>> short(0.012345), short(3.21e-5)
    ('0.012', '3.2e-05')
    """
    return f"{rate:.2g}"


def _card(rate: FoundRate) -> Card:
    caption = "Loss while the rate of this rule rises. Dashed: the suggestion."
    if any(curve.at_rest for curve in rate.curves):
        caption += " Other rules keep their rates; dotted: the loss with this rule at the lowest one."
    return Card(f"Rate of {rate.rule}", "nats a token", _chart(rate), caption)


def _chart(rate: FoundRate) -> Chart:
    keys = tuple(Key(f"seed {curve.seed}", index) for index, curve in enumerate(rate.curves, 1))
    return draw(partial(_plot, rate), f"rates-{rate.rule}", keys, HALF)


def _plot(rate: FoundRate, axes: Axes, size: Size) -> None:
    for color, curve in zip(SERIES, rate.curves, strict=False):
        line(axes, np.array(curve.rates), np.array(curve.losses), color=color, width=1, alpha=0.3)
        line(axes, np.array(smoothed(curve.rates)), np.array(smoothed(curve.losses)), color=color)
        at_rest = smoothed(curve.at_rest[: len(curve.rates)])
        line(axes, np.array(smoothed(curve.rates)[: len(at_rest)]), np.array(at_rest), color=color, style=":")
    if rate.low is not None and rate.high is not None:
        axes.axvspan(rate.low, rate.high, color=MUTED, alpha=0.12, linewidth=0)
    if rate.suggested is not None:
        axes.axvline(rate.suggested, color=INK, linewidth=1, linestyle="--")
    first = [curve.losses[0] for curve in rate.curves]
    axes.set_ylim(top=1.1 * max(first))
    frame(axes, size, rate.setting)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: axis_text(value)))
