"""The section about the balance of experts: load over time, its figures, and the profile of each layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.pages import charts, heat_maps
from penstock.pages.card import Card
from penstock.report import captions
from penstock.report.data import Run, relative
from penstock.report.learning import row_size
from penstock.run.records.profile import LayerProfile


@dataclass(frozen=True, slots=True)
class Heat:
    """Heat maps of several layers with one colour scale."""

    maps: tuple[heat_maps.HeatMap, ...]
    legend: tuple[str, str, str]
    first_step: int
    last_step: int
    caption: str


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer of the profile with its load as a strip of colour; empty if its counts are unknown."""

    profile: LayerProfile
    strip: str


def heat(run: Run) -> Heat | None:
    """Expert load over time, one map per layer."""
    if run.load is None or not run.load.layers:
        return None
    limit = heat_maps.heat_limit(run.load.ratio_LEC)
    maps = tuple(
        heat_maps.heat_map(layer, ratio, limit) for layer, ratio in zip(run.load.shown, run.load.ratio_LEC, strict=True)
    )
    return Heat(maps, captions.heat_legend(limit), run.load.first_step, run.load.last_step, captions.load(run.load))


def balance_cards(run: Run) -> list[Card]:
    """MaxVio, Gini, entropy and the balancing losses, as far as the run logged them."""
    if run.metrics is None:
        return []
    get = run.metrics.series
    mean, worst = get("load/max_violation"), get("load/max_violation_worst")
    violations = {name: series for name, series in (("mean of layers", mean), ("worst layer", worst)) if series}
    losses = {
        name.removeprefix("balance/"): series
        for name in run.metrics.train
        if name.startswith("balance/") and (series := get(name))
    }
    gini, entropy = get("load/gini"), get("load/entropy")
    wide = row_size(sum(map(bool, (violations, gini, entropy, losses))))
    cards = []
    if violations:
        chart = charts.lines_chart("max-violation", violations, from_zero=True, wide=wide)
        cards.append(Card("MaxVio", "max / mean - 1", chart, captions.violation(mean, worst)))
    if gini:
        chart = charts.single_chart("gini", gini, smooth=True, from_zero=True, wide=wide)
        cards.append(Card("Gini coefficient", "", chart, captions.change("Gini", gini, "0 is even")))
    if entropy:
        chart = charts.single_chart("entropy", entropy, smooth=True, wide=wide)
        cards.append(Card("Entropy of load", "", chart, captions.change("Entropy", entropy, "higher is more even")))
    if losses:
        chart = charts.lines_chart("balance-losses", losses, wide=wide)
        text = " ".join(captions.change(name, series) for name, series in losses.items())
        cards.append(Card("Balancing", "as logged", chart, text))
    return cards


def layer_strips(run: Run) -> tuple[list[LayerRow], tuple[str, str, str] | None]:
    """The profile's layers, each with its load as one line of a heat map."""
    rows = run.profile.layers if run.profile else []
    ratios = [relative(row.counts) if row.counts else None for row in rows]
    known = [ratio for ratio in ratios if ratio is not None]
    if not known:
        return [LayerRow(row, "") for row in rows], None
    limit = heat_maps.heat_limit(np.concatenate(known))
    strips = [
        "" if ratio is None else heat_maps.heat_image(ratio[None], limit, rows=1, columns=480) for ratio in ratios
    ]
    return [LayerRow(row, strip) for row, strip in zip(rows, strips, strict=True)], captions.heat_legend(limit)
