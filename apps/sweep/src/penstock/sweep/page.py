"""The page of a sweep: difference of each cell from the baseline, quality against balance, the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from penstock.pages import drawing
from penstock.pages.card import Card
from penstock.pages.page import write_page
from penstock.run.records.sweep import CellFigures, Difference
from penstock.sweep.compare import COLUMNS, CONFIDENCE, HELP, line

Cells = Sequence[CellFigures]
TEMPLATE = Path(__file__).with_name("sweep.html.j2")


def write_sweep_page(name: str, cells: Cells, summary: str, out: Path) -> Path:
    """Atomically writes the page to `out`."""
    cards = [
        Card(
            "Difference from the baseline",
            "held-out bits per byte, lower is better",
            difference_chart(cells),
            f"Mean over seeds of cell minus baseline, with the {CONFIDENCE:.0%} interval. An interval that contains 0 "
            "shows no difference.",
        )
    ]
    if any(cell.max_violation is not None for cell in cells):
        caption = "Each point is a cell, numbered as in the table. Further left is more even, lower is better."
        cards.append(Card("Quality against balance", "bits per byte over MaxVio", balance_chart(cells), caption))
    rows = [(f"{number}. {first}", *rest) for number, (first, *rest) in enumerate(map(line, cells), 1)]
    return write_page(TEMPLATE, out, name=name, summary=summary, cards=cards, columns=COLUMNS, rows=rows, caption=HELP)


def difference_chart(cells: Cells) -> drawing.Chart:
    """A forest plot: one row per cell, the baseline at 0."""

    def plot(axes: Axes, size: drawing.Size) -> None:
        axes.axvline(0, color=drawing.MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        for row, cell in enumerate(cells):
            difference = cell.difference or Difference(0.0, None)
            color = drawing.SERIES[0] if cell.difference else drawing.MUTED
            half = difference.half_width or 0.0
            axes.errorbar(difference.mean, row, xerr=half, color=color, marker="o", markersize=6, capsize=4, zorder=5)
        drawing.frame(axes, size, "bits per byte")
        axes.xaxis.set_major_locator(MaxNLocator(4 if size[0] < 400 else 6))
        axes.yaxis.set_major_locator(FixedLocator(range(len(cells))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda row, _: f"{row + 1:.0f}"))
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)

    return drawing.draw(plot, "sweep-differences", (), drawing.HALF)


def balance_chart(cells: Cells) -> drawing.Chart:
    """Bits per byte over MaxVio, one numbered point per cell."""

    def plot(axes: Axes, size: drawing.Size) -> None:
        for number, cell in enumerate(cells, 1):
            if cell.max_violation is None:
                continue
            at = (cell.max_violation, cell.bits_per_byte)
            axes.plot(*at, color=drawing.SERIES[0], marker="o", markersize=6, zorder=5)
            axes.annotate(str(number), at, (7, 4), textcoords="offset points", color=drawing.INK, fontweight="bold")
        drawing.frame(axes, size, "MaxVio over all held-out tokens")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.12, y=0.15)

    return drawing.draw(plot, "sweep-balance", (), drawing.HALF)
