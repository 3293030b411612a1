"""Chart types: each takes series and returns a `Chart`."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from penstock.pages.drawing import SERIES, SMALL, Chart, Key, Series, Size, draw, frame
from penstock.pages.lines import coinciding, decimated, end_labels, line, points, raw_and_smooth, smoothed


def single_chart(
    name: str, series: Series, *, smooth: bool = False, log: bool = False, from_zero: bool = False, wide: Size = SMALL
) -> Chart:
    """One quantity over steps; with `smooth`, a moving average drawn over the faint values of each step."""

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
    """Several quantities over one axis, one colour each: smoothed, or raw and `marked` by points. A line on top of
    another is dashed, so that both are seen."""
    hidden = {name for group in coinciding(series) for name in group[1:]}

    def plot(axes: Axes, size: Size) -> None:
        for index, (name, (x, y)) in enumerate(series.items()):
            style = "--" if name in hidden or index >= len(SERIES) else "-"
            color = SERIES[index % len(SERIES)]
            if marked:
                points(axes, x, y, color=color)
            line(axes, *decimated(x, y if marked else smoothed(y)), color=color, style=style)
        if from_zero:
            axes.set_ylim(bottom=0)
        if top is not None:
            axes.set_ylim(top=top)
        frame(axes, size, x_label)
        end_labels(axes, [(x, y if marked else smoothed(y)) for x, y in series.values()])

    keys = tuple(Key(label, index % len(SERIES) + 1) for index, label in enumerate(series))
    return draw(plot, name, keys, wide)
