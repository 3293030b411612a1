"""Draws charts as inline SVG in the page's colours, with one common frame.

Each chart is drawn twice, for a wide and for a narrow card, because scaling one SVG to both makes its text either too
large or too small to read. Colours are placeholders while matplotlib draws and CSS variables afterwards, so one
drawing serves the light and the dark scheme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from penstock.pages.formats import NO_BREAK, SCALES, duration

INK, MUTED, RULE, CARD = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#05050{index}" for index in range(1, 9))
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    CARD: "--card",
    **{color: f"--series-{index}" for index, color in enumerate(SERIES, start=1)},
}
FULL, MAIN, SIDE, HALF, SMALL, NARROW = (1110, 320), (630, 300), (436, 300), (530, 240), (346, 216), (330, 230)
LEFT, RIGHT, TOP, BOTTOM = 44, 46, 10, 40
"""Pixels around the axes: fixed, because fitting them to the text doubles the drawing time and unaligns the cards."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.id": None,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": MUTED,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "path.simplify": True,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}

Column = NDArray[np.float64]
Size = tuple[int, int]
Series = tuple[Column, Column]
Mark = Literal["line", "faint", "dash", "dot", "band"]


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend; `series` counts from 1."""

    label: str
    series: int
    mark: Mark = "line"


@dataclass(frozen=True, slots=True)
class Chart:
    """SVG markup for a wide and a narrow card, and its legend."""

    wide: str
    narrow: str
    legend: tuple[Key, ...] = ()

    def scoped(self, scope: str) -> Chart:
        """The same chart with `scope` before each id, so that several copies can share one page."""
        wide, narrow = (re.sub(r'(\bid="|href="#|url\(#)', rf"\1{scope}-", svg) for svg in (self.wide, self.narrow))
        return Chart(wide, narrow, self.legend)


def draw(
    plot: Callable[[Axes, Size], None], name: str, legend: tuple[Key, ...], wide: Size, narrow: Size = NARROW
) -> Chart:
    """Draws a chart in both sizes, or once if the card is small everywhere."""
    first = _svg(plot, name, wide)
    return Chart(first, first if wide == SMALL else _svg(plot, f"{name}-narrow", narrow), legend)


def _svg(plot: Callable[[Axes, Size], None], name: str, size: Size) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        width, height = size
        figure = Figure(figsize=(width / 72, height / 72))
        inner = (LEFT / width, BOTTOM / height, (width - LEFT - RIGHT) / width, (height - TOP - BOTTOM) / height)
        axes = figure.add_axes(inner)
        axes.margins(x=0.012)
        plot(axes, size)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    """matplotlib's SVG document as a fragment of HTML: CSS colours, the page's font, no metadata, fewer digits.

    The ids that stay (of clip paths and markers) hold the hash salt, so they differ between charts.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    body = svg[svg.index(">") + 1 :]
    body = body.replace("xlink:href", "href")
    body = re.sub(r'\sid="(?![pm][0-9a-f]{6,})[^"]*"', "", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, f"var({variable})")
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return f'<svg viewBox="{box[1] if box else ""}" role="img">{body}'


def axis_text(value: float) -> str:
    """A number on an axis, as short as possible.

    >>> axis_text(0.25), axis_text(8000), axis_text(12_500)
    ('0.25', '8\\xa0k', '12.5\\xa0k')
    """
    scale, suffix = next(((scale, suffix) for scale, suffix in SCALES if abs(value) >= scale), (1.0, ""))
    return f"{value / scale:.6g}{suffix}"


def axis_duration(value: float) -> str:
    """Seconds on an axis.

    >>> axis_duration(0.0002), axis_duration(0.0)
    ('200\\xa0\xb5s', '0')
    """
    if value <= 0:
        return "0"
    mantissa, space, unit = duration(value).partition(NO_BREAK)
    return (mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa) + space + unit


def frame(
    axes: Axes, size: Size, x_label: str, *, log: bool = False, y_format: Callable[[float], str] = axis_text
) -> None:
    """Ticks, grid and labels, the same on every chart, with the numbers on the card's left edge."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=7)
    axes.tick_params(axis="y", pad=LEFT)
    if log:
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4 if size[1] < 260 else 5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_locator(
        MaxNLocator(4 if size[0] < 400 else 6 if size[0] < 600 else 8, integer=True, steps=[1, 2, 2.5, 5, 10])
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: axis_text(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: y_format(value)))
    for label in axes.get_yticklabels():
        label.set_horizontalalignment("left")
    axes.set_xlabel(x_label, fontsize=10.5, labelpad=4)
