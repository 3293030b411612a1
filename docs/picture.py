"""Draws the README's picture of a run: `python docs/picture.py runs/quickstart/<time>` writes `docs/quickstart.svg`.

Left: held-out bits per byte with baselines that need no model. Middle: how evenly the experts are used. Right: the cost
of their load on a network. The run's report has all of this too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PICTURE = Path(__file__).with_name("quickstart.svg")
INK, MUTED, FIRST, SECOND = "#24292f", "#6e7781", "#0f766e", "#b45309"  # on a white card, in light and dark mode
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: a tenth of the bytes
    "svg.hashsalt": "penstock",  # the same run gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
}


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def draw_learning(axes: Axes, run: Path) -> None:
    rows = [row for row in rows_of(run) if "heldout/bits_per_byte" in row]
    axes.plot(
        [row["step"] for row in rows], [row["heldout/bits_per_byte"] for row in rows], color=FIRST, marker="o", ms=3
    )
    evaluation = json.loads((run / "evaluation.json").read_text())
    baselines = evaluation["baselines"]
    axes.plot(rows[-1]["step"], evaluation["heldout_bits_per_byte"], color=SECOND, marker="D", ms=4, linestyle="")
    for name, bits in baselines.items():
        axes.axhline(bits, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        label = name.removesuffix("_bits_per_byte").replace("xz", "xz -9")
        axes.annotate(
            label,
            (1, bits),
            (0, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=MUTED,
        )
    axes.set(title="Held-out bits per byte (\u25c6 all of the text)", xlabel="step")
    axes.set_ylim(0, 1.1 * max(baselines.values()))


def draw_load(axes: Axes, run: Path) -> None:
    rows = [row for row in rows_of(run) if "load/max_violation" in row]
    violation = np.array([row["load/max_violation"] for row in rows])
    width = max(1, len(rows) // 40)
    smooth = np.convolve(violation, np.ones(width) / width, mode="valid")
    axes.plot([row["step"] for row in rows], violation, color=FIRST, alpha=0.25, linewidth=0.6)
    axes.plot([row["step"] for row in rows][width - 1 :], smooth, color=FIRST)
    axes.set(title="Busiest expert above the mean load", xlabel="step")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylim(0, float(np.quantile(violation, 0.98)))


def draw_network(axes: Axes, run: Path) -> None:
    rows = json.loads((run / "simulation.json").read_text())["rows"]
    gpus = [row["gpus"] for row in rows]
    for key, label, color, style in (
        ("mean_seconds", "as routed", FIRST, "-"),
        ("balanced_seconds", "perfectly even", SECOND, "--"),
    ):
        axes.plot(gpus, [1e3 * row[key] for row in rows], style, color=color, marker="o", ms=3, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(gpus, [str(each) for each in gpus])
    axes.set(title="All-to-all of one layer, ms", xlabel="GPUs")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor=INK, loc="upper left")


def main() -> None:
    run = Path(sys.argv[1])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.9), layout="constrained", facecolor="white")
        for axes, draw in zip(figure.subplots(1, 3), (draw_learning, draw_load, draw_network), strict=True):
            draw(axes, run)
            axes.title.set_color(INK)
            axes.title.set_fontsize(10)
        figure.savefig(PICTURE, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
