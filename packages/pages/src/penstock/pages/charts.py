"""Draws: lines as inline SVG that follows the page's colours, expert load as PNG whose even value is transparent.

Each chart is drawn twice, for a wide and for a narrow card, because scaling one SVG to both makes its text either too
large or too small to read. Colours are placeholders while matplotlib draws and CSS variables afterwards, so one
drawing serves the light and the dark scheme.

Shape suffixes: E experts, C columns (bins of steps).
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from penstock.pages.formats import NO_BREAK, SCALES, duration, number

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
POINTS = 500
"""Bins of a drawn line: two points each, and the widest chart has 1110 pixels."""
SORTED_ABOVE = 32
"""Experts in a heat map whose lines can still be told apart at 150 pixels."""
LEFT, RIGHT, TOP, BOTTOM = 44, 46, 10, 40
"""Pixels around the axes: fixed, because fitting them to the text doubles the drawing time and unaligns the cards."""
LEVELS = 33
"""Shades in a heat map: fewer distinct colours compress better, and no eye tells 33 apart."""

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
        """The same chart with `scope` before each id, so that it may stand beside its like on one page."""
        wide, narrow = (re.sub(r'(\bid="|href="#|url\(#)', rf"\1{scope}-", svg) for svg in (self.wide, self.narrow))
        return Chart(wide, narrow, self.legend)


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A picture of load over time: experts downwards, time to the right; `first` and `last` name the outer lines."""

    layer: int
    experts: int
    first: str
    last: str
    image: str


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


def single_chart(
    name: str, series: Series, *, smooth: bool = False, log: bool = False, from_zero: bool = False, wide: Size = SMALL
) -> Chart:
    """One quantity over steps; with `smooth`, its moving average over the faint values of each step."""

    def plot(axes: Axes, size: Size) -> None:
        if smooth:
            raw_and_smooth(axes, *series, robust=not log)
        else:
            line(axes, *series, color=SERIES[0])
        if log:
            axes.set_yscale("log")
        elif from_zero:
            axes.set_ylim(bottom=0)
        frame(axes, size, "step", log=log)
        end_labels(axes, [(series[0], smoothed(series[1])) if smooth else series])

    return draw(plot, name, (), wide)


def lines_chart(
    name: str,
    series: Mapping[str, Series],
    x_label: str = "step",
    *,
    from_zero: bool = False,
    marked: bool = False,
    top: float | None = None,
    wide: Size = SMALL,
) -> Chart:
    """Several quantities over the same axis, one colour each: smoothed, or as they are and `marked` by points."""

    def plot(axes: Axes, size: Size) -> None:
        for index, (x, y) in enumerate(series.values()):
            style = "-" if index < len(SERIES) else "--"
            if marked:
                points(axes, x, y, color=SERIES[index % len(SERIES)], joined=True)
            else:
                line(axes, *decimated(x, smoothed(y)), color=SERIES[index % len(SERIES)], style=style)
        if from_zero:
            axes.set_ylim(bottom=0)
        if top is not None:
            axes.set_ylim(top=top)
        frame(axes, size, x_label)
        end_labels(axes, [(x, y if marked else smoothed(y)) for x, y in series.values()])

    keys = tuple(Key(label, index % len(SERIES) + 1) for index, label in enumerate(series))
    return draw(plot, name, keys, wide)


def heat_limit(ratio: Column) -> float:
    """The load ratio at which colour saturates: the smallest round one that covers 98 % of the loaded cells."""
    loaded = ratio[np.isfinite(ratio) & (ratio > 0)]
    reach = float(np.quantile(np.abs(np.log2(loaded)), 0.98)) if loaded.size else 0.0
    return next((limit for limit in (1.25, 1.5, 2.0, 4.0) if reach <= math.log2(limit)), 8.0)


def heat_map(layer: int, ratio_EC: Column, limit: float) -> HeatMap:
    """One layer over time. More than `SORTED_ABOVE` experts are sorted by load, or one would see but noise."""
    experts = len(ratio_EC)
    if experts <= SORTED_ABOVE:
        return HeatMap(layer, experts, "0", str(experts - 1), heat_image(ratio_EC, limit, rows=240, columns=480))
    order = np.argsort(-np.nan_to_num(ratio_EC).mean(axis=1), kind="stable")
    return HeatMap(layer, experts, "most", "least", heat_image(ratio_EC[order], limit, rows=240, columns=480))


def heat_image(ratio: Column, limit: float, rows: int, columns: int) -> str:
    """A PNG data URI of load ratios [rows, columns]: orange above the mean, blue below, transparent at it.

    Opacity grows with |log2 ratio| up to `limit`. Cells are repeated until the picture has about the size it is shown
    at, so that a browser's smoothing does not blur them.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = np.clip(np.log2(ratio) / math.log2(limit), -1, 1)
    strength = np.nan_to_num(strength, nan=0.0)
    shade = np.round(np.abs(strength) * (LEVELS - 1)) / (LEVELS - 1)
    rgba = np.empty((*ratio.shape, 4), dtype=np.float64)
    rgba[..., :3] = np.where(strength[..., None] > 0, (0.88, 0.38, 0.13), (0.08, 0.47, 0.72))
    rgba[..., 3] = shade**0.8
    repeats = [max(1, round(wanted / max(1, have))) for wanted, have in zip((rows, columns), ratio.shape, strict=True)]
    buffer = io.BytesIO()
    imsave(buffer, rgba.repeat(repeats[0], axis=0).repeat(repeats[1], axis=1), format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def axis_text(value: float) -> str:
    """A number on an axis, as short as can be.

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


def line(axes: Axes, x: Column, y: Column, *, color: str, width: float = 2, alpha: float = 1, style: str = "-") -> None:
    """A line; a dot where there is but one finite point."""
    finite = np.isfinite(y)
    marker = "o" if finite.sum() == 1 else ""
    axes.plot(x, y, color=color, linewidth=width, alpha=alpha, linestyle=style, marker=marker, markersize=6)


def points(axes: Axes, x: Column, y: Column, *, color: str, joined: bool = False) -> None:
    """Few points with a card-coloured rim, joined by a line when asked; many are thinned to a line."""
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if joined:
        line(axes, *decimated(x, y), color=color)
    step = max(1, math.ceil(len(x) / 40))
    axes.plot(
        x[::-step],
        y[::-step],
        color=color,
        linestyle="",
        marker="o",
        markersize=6,
        markeredgecolor=CARD,
        markeredgewidth=1.4,
        zorder=5,
    )


def raw_and_smooth(axes: Axes, x: Column, y: Column, *, robust: bool = True) -> None:
    """The values, faint, under their moving average. Rare spikes do not stretch the frame."""
    y = np.where(np.isfinite(y), y, math.nan)
    line(axes, *decimated(x, y), color=SERIES[0], width=1, alpha=0.38)
    line(axes, *decimated(x, smoothed(y)), color=SERIES[0])
    top = frame_top(y)
    if robust and top < np.nanmax(y):
        axes.set_ylim(top=top)


def frame_top(values: Column) -> float:
    """The upper edge of a frame: the largest value, unless it dwarfs 99.5 % of them.

    >>> frame_top(np.array([1.0, 2.0, 3.0])), frame_top(np.array([1.0] * 999 + [1000.0]))
    (3.0, 1.15)
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 1.0
    usual = float(np.quantile(finite, 0.995)) * 1.15
    largest = float(finite.max())
    return usual if 0 < usual * 3 < largest else largest


def reference_lines(axes: Axes, values: Mapping[str, float], series: Series) -> None:
    """Dashed horizontal lines, each named at the end that the series keeps away from; names are kept apart."""
    for value in values.values():
        axes.axhline(value, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    axes.margins(y=0.1)
    low, high = axes.get_ylim()
    x, y = (column[np.isfinite(series[1])] for column in series)
    quarter = (x[-1] - x[0]) / 4
    parts = (y[x <= x[0] + quarter], y[x >= x[-1] - quarter])
    floors = [-math.inf, -math.inf]
    for name, value in sorted(values.items(), key=lambda pair: pair[1]):
        gaps = [float(np.abs(part - value).min()) for part in parts]
        side = int(gaps[1] > gaps[0])
        floors[side] = max(value + 0.012 * (high - low), floors[side])
        axes.annotate(
            f"{name} {number(value)}",
            ((0.012, 0.988)[side], floors[side]),
            xycoords=("axes fraction", "data"),
            ha=("left", "right")[side],
            va="bottom",
            color=MUTED,
            fontsize=10.5,
            zorder=6,
        )
        floors[side] += 0.075 * (high - low)


def end_labels(axes: Axes, lines: Sequence[Series]) -> None:
    """The last value of each line beside its end, kept apart, in the line's colour where there are several.

    None where the lines are too many to tell.
    """
    ends = []
    for (x, y), color in zip(lines, SERIES if len(lines) > 1 else (INK,), strict=False):
        finite = np.isfinite(y)
        ends.append((float(y[finite][-1]), float(x[finite][-1]), color))
    if len(ends) > 4:
        return
    floor = -math.inf
    for value, x_end, color in sorted(ends):
        at = float(axes.transData.transform((x_end, value))[1])
        floor = max(at, floor)
        text = axis_text(float(f"{value:.3g}"))
        text = text if len(text) <= 6 else axis_text(float(f"{value:.2g}"))
        axes.annotate(
            text,
            (x_end, value),
            (7, floor - at),
            textcoords="offset points",
            va="center",
            color=color,
            fontweight="bold",
            annotation_clip=False,
            zorder=6,
        )
        floor += 13


def frame(
    axes: Axes, size: Size, x_label: str, *, log: bool = False, y_format: Callable[[float], str] = axis_text
) -> None:
    """Ticks, grid and labels, alike on every chart, with the numbers on the card's left edge."""
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


def smoothed(values: Column) -> Column:
    """A moving average over a twentieth of the rows, ignoring NaN; below forty rows, the values themselves.

    It is centred, so unlike an exponential average it does not lag behind a falling loss. At the start its window
    shrinks evenly, which keeps the first steep steps; at the end it is cut, which keeps the last value calm.
    """
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    present = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(values))
    half = np.minimum(index, len(values) // 40)
    start, stop = index - half, np.minimum(index + half + 1, len(values))
    weight = present[stop] - present[start]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 0, (total[stop] - total[start]) / weight, math.nan)


def decimated(x: Column, y: Column) -> tuple[Column, Column]:
    """At most 2 * `POINTS` points with the same outline: the lowest and the highest of each bin, in order."""
    if len(y) <= 2 * POINTS:
        return x, y
    edges = np.linspace(0, len(y), POINTS + 1).astype(int)
    keep: list[int] = []
    for start, stop in itertools.pairwise(edges.tolist()):
        part = y[start:stop]
        if np.isfinite(part).any():
            keep += sorted({start + int(np.nanargmin(part)), start + int(np.nanargmax(part))})
        else:
            keep.append(start)
    return x[keep], y[keep]


def draw(plot: Callable[[Axes, Size], None], name: str, legend: tuple[Key, ...], wide: Size) -> Chart:
    """Draws a chart in both sizes; once where the card is small everywhere."""
    first = _svg(plot, name, wide)
    return Chart(first, first if wide == SMALL else _svg(plot, f"{name}-narrow", NARROW), legend)


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
