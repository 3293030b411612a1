"""Cards of a sweep whose cells are compared with a baseline: the differences, and quality against balance."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from penstock.evaluate.paired import CONFIDENCE
from penstock.pages import drawing
from penstock.pages.card import Card
from penstock.pages.lines import named_points
from penstock.run.records.sweep import CellFigures, Difference, SweepFigures
from penstock.sweep.compare import BASELINE, STAND_IN, missing_lines, reference_text

Cells = Sequence[CellFigures]
ROW, FRAME = 44, 60
"""Pixels of a cell's row in the forest plot, and of what surrounds the rows."""


def baseline_cards(result: SweepFigures) -> list[Card]:
    """The forest plot, and quality against balance if a cell has experts; none before the first run is measured."""
    if not any(cell.difference for cell in result.cells):
        return []
    cells, whys = result.cells, {name: why for name, _, _, _, why, *_ in missing_lines(result)}
    caption = f"{reference_text(result)} Mean over seeds of cell minus that one, with the {CONFIDENCE:.0%} interval. "
    caption += "An interval that contains 0 shows no difference."
    if any(cell.difference and cell.difference.half_width is None for cell in cells):
        caption += " A hollow point has too few seeds for an interval, and shows nothing."
    chart = difference_chart(cells, whys)
    cards = [Card("Difference from the baseline", "held-out bits per byte, lower is better", chart, caption)]
    if any(cell.max_violation is not None for cell in cells):
        whole = [cell for cell in cells if cell.seeds == max(cell.seeds for cell in cells)]
        text = f"Each point is a cell, a mean over {whole[0].seeds} seeds. Further left is more even, lower is better."
        if len(whole) < len(cells):
            text += " Cells with fewer seeds are left out, because seeds differ more than cells."
        cards.append(Card("Quality against balance", "bits per byte over MaxVio", balance_chart(whole), text))
    return cards


def difference_chart(cells: Cells, missing: dict[str, str]) -> drawing.Chart:
    """A forest plot: one named row per cell, the baseline at 0. A cell without figures has the reason."""
    rows = len(cells) + len(missing)

    def plot(axes: Axes, size: drawing.Size) -> None:
        axes.axvline(0, color=drawing.MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        for row, cell in enumerate(cells):
            _row_name(axes, row, cell.cell if cell.difference else f"{cell.cell} ({cell.verdict})")
            if cell.difference or cell.verdict in (BASELINE, STAND_IN):
                _point(axes, row, cell.difference)
        for row, (name, why) in enumerate(missing.items(), len(cells)):
            _row_name(axes, row, f"{name} ({why})")
        drawing.frame(axes, size, "bits per byte")
        axes.xaxis.set_major_locator(MaxNLocator(4 if size[0] < 400 else 6))
        axes.yaxis.set_major_locator(NullLocator())
        axes.set_ylim(rows - 0.5, -0.7)
        axes.margins(x=0.1)

    height = FRAME + ROW * rows
    wide, narrow = (drawing.HALF[0], max(drawing.HALF[1], height)), (drawing.NARROW[0], max(drawing.NARROW[1], height))
    return drawing.draw(plot, "sweep-differences", (), wide, narrow)


def _row_name(axes: Axes, row: int, text: str) -> None:
    axes.annotate(
        text,
        (0, row - 0.24),
        xycoords=("axes fraction", "data"),
        xytext=(-drawing.LEFT, 0),
        textcoords="offset points",
        va="bottom",
        color=drawing.INK,
        fontsize=10.5,
        annotation_clip=False,
    )


def _point(axes: Axes, row: int, difference: Difference | None) -> None:
    """The mean with its interval; hollow without an interval, muted for the baseline."""
    mean, half = (difference.mean, difference.half_width) if difference else (0.0, None)
    color = drawing.SERIES[0] if difference else drawing.MUTED
    fill = drawing.CARD if difference and half is None else color
    axes.errorbar(
        mean, row, xerr=half or 0.0, color=color, marker="o", markersize=7, capsize=4, zorder=5, markerfacecolor=fill
    )


def balance_chart(cells: Cells) -> drawing.Chart:
    """Bits per byte over MaxVio, one named point per cell."""
    known = [
        (cell.cell, cell.max_violation, cell.bits_per_byte)
        for cell in cells
        if cell.max_violation is not None and cell.bits_per_byte is not None
    ]

    def plot(axes: Axes, size: drawing.Size) -> None:
        axes.plot(
            [x for _, x, _ in known],
            [y for *_, y in known],
            color=drawing.SERIES[0],
            linestyle="",
            marker="o",
            zorder=5,
        )
        drawing.frame(axes, size, "MaxVio over all held-out tokens")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.12, y=0.15)
        named_points(axes, known)

    return drawing.draw(plot, "sweep-balance", (), drawing.HALF)
