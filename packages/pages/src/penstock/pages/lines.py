"""What a chart shows of a series: lines, points, reference lines and the labels at their ends.

The series are smoothed and thinned first, so that a page of a long run stays light.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from penstock.pages.drawing import CARD, INK, MUTED, SERIES, Column, Series, axis_text
from penstock.pages.formats import listed, number

POINTS = 500
"""Bins of a drawn line: two points each, and the widest chart has 1110 pixels."""


def line(axes: Axes, x: Column, y: Column, *, color: str, width: float = 2, alpha: float = 1, style: str = "-") -> None:
    """A line, or a dot if there is only one finite point."""
    finite = np.isfinite(y)
    marker = "o" if finite.sum() == 1 else ""
    axes.plot(x, y, color=color, linewidth=width, alpha=alpha, linestyle=style, marker=marker, markersize=6)


def points(axes: Axes, x: Column, y: Column, *, color: str, joined: bool = False) -> None:
    """Few points with a card-coloured rim, joined by a line if `joined`; many are thinned to a line."""
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
    """Dashed horizontal lines, each named at the end that the series keeps away from; names do not overlap."""
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


def end_labels(axes: Axes, lines: Sequence[Series], colors: Sequence[str] = SERIES) -> None:
    """The last value of each line next to its end, kept apart, in the line's colour if there are several.

    No labels if there are too many lines to distinguish.
    """
    ends = []
    for (x, y), color in zip(lines, colors if len(lines) > 1 else (INK,), strict=False):
        finite = np.isfinite(y)
        ends.append((float(y[finite][-1]), float(x[finite][-1]), color))
    if len(ends) > 4:
        return
    floor = -math.inf
    for value, x_end, color in sorted(ends):
        at = float(axes.transData.transform((x_end, value))[1])
        floor = max(at, floor)
        text = number(value) if abs(value) < 1000 else axis_text(float(f"{value:.3g}"))
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


def named_points(axes: Axes, named: Sequence[tuple[str, float, float]]) -> None:
    """The name of each point next to it, towards the middle of the frame, and kept apart from names below it.

    Call it last: it needs the frame's final limits.
    """
    axes.autoscale_view()
    low, high = axes.get_xlim()
    floors = [-math.inf, -math.inf]
    for name, x, y in sorted(named, key=lambda point: point[2]):
        right = int(x > (low + high) / 2)
        at = float(axes.transData.transform((x, y))[1])
        height = max(at, floors[right])
        axes.annotate(
            name,
            (x, y),
            ((8, -8)[right], height - at),
            textcoords="offset points",
            ha=("left", "right")[right],
            va="center",
            color=INK,
            fontsize=10.5,
            annotation_clip=False,
            zorder=6,
        )
        floors[right] = height + 13


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


def ending(values: Column) -> tuple[float, int]:
    """Where a smoothed line ends, and the rows that this is a mean of; labels and sentences both say this.

    >>> ending(np.array([3.0, 2.0, 1.0]))
    (1.0, 1)
    """
    curve = smoothed(values)
    return float(curve[np.isfinite(curve)][-1]), len(values) // 40 + 1


def coinciding(series: Mapping[str, Series], tolerance: float = 0.004) -> list[list[str]]:
    """Names of lines that hide each other: they are nowhere further apart than a line is wide, which is about
    `tolerance` of the frame.

    >>> x = np.arange(3.0)
    >>> coinciding({"a": (x, x), "b": (x, 1 - x), "c": (x, x)})
    [['a', 'c']]
    """
    values = [y[np.isfinite(y)] for _, y in series.values()]
    values = [each for each in values if each.size]
    height = max((float(each.max()) for each in values), default=0.0) - min(
        (float(each.min()) for each in values), default=0.0
    )
    groups: list[list[str]] = []
    for name, (x, y) in series.items():
        for group in groups:
            other_x, other_y = series[group[0]]
            if np.array_equal(x, other_x) and bool((np.abs(y - other_y) <= tolerance * height).all()):
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def merged(series: Mapping[str, Series]) -> dict[str, Series]:
    """The lines with those that coincide as one, which has all their names, or the first two and how many more.

    >>> x = np.arange(3.0)
    >>> list(merged({"a": (x, x), "b": (x, 1 - x), "c": (x, x)}))
    ['a and c', 'b']
    """
    groups = {group[0]: group for group in coinciding(series)}
    hidden = {name for group in groups.values() for name in group[1:]}
    return {_together(groups.get(name, [name])): line for name, line in series.items() if name not in hidden}


def _together(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{names[0]}, {names[1]} and {len(names) - 2} alike"
    return listed(names)


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
