"""Turns what was read from a run into what the template prints: charts with captions, tables, bars and hints."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from penstock.pages import charts, formats
from penstock.pages.card import Card
from penstock.pages.charts import Column
from penstock.report import captions
from penstock.report.data import LayerProfile, Run, relative
from penstock.report.headline import Tile, summary, tiles
from penstock.simulate import network_charts


@dataclass(frozen=True, slots=True)
class Part:
    """One segment of a stacked bar."""

    name: str
    value: str
    share: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A whole and its parts, largest first unless the order has a meaning."""

    title: str
    whole: str
    parts: tuple[Part, ...]
    caption: str


@dataclass(frozen=True, slots=True)
class Hint:
    """What is missing and which command adds it."""

    what: str
    command: str


@dataclass(frozen=True, slots=True)
class Heat:
    """Heat maps of several layers with one colour scale."""

    maps: tuple[charts.HeatMap, ...]
    legend: tuple[str, str, str]
    first_step: int
    last_step: int
    caption: str


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer of the profile with its load as a strip of colour; empty where no counts are known."""

    profile: LayerProfile
    strip: str


@dataclass(frozen=True, slots=True)
class RunView:
    """All that the template shows of one run, in the order of the page."""

    run: Run
    label: str
    anchor: str
    summary: str
    tiles: list[Tile]
    main_cards: list[Card]
    small_cards: list[Card]
    heat: Heat | None
    balance_cards: list[Card]
    layer_rows: list[LayerRow]
    layer_legend: tuple[str, str, str] | None
    layer_caption: str
    bars: list[Bar]
    sizes: list[Part]
    sizes_caption: str
    network: Card | None
    network_details: list[Card]
    command: str
    hints: Mapping[str, list[Hint]]


def view(run: Run, label: str, anchor: str) -> RunView:
    """Draws and describes one run."""
    strips, layer_legend = layer_strips(run)
    return RunView(
        run=run,
        label=label,
        anchor=anchor,
        summary=summary(run),
        tiles=tiles(run),
        main_cards=scoped(anchor, main_cards(run)),
        small_cards=scoped(anchor, small_cards(run)),
        heat=heat(run),
        balance_cards=scoped(anchor, balance_cards(run)),
        layer_rows=strips,
        layer_legend=layer_legend,
        layer_caption=captions.layers(run.profile) if run.profile else "",
        bars=bars(run),
        sizes=size_parts(run),
        sizes_caption=captions.sizes(run.sizes) if run.sizes else "",
        network=next(iter(scoped(anchor, network_cards(run))), None),
        network_details=scoped(anchor, network_details(run)),
        command=command(run),
        hints=hints(run),
    )


def scoped(anchor: str, cards: Iterable[Card]) -> list[Card]:
    return [Card(card.title, card.unit, card.chart.scoped(anchor), card.caption) for card in cards]


def main_cards(run: Run) -> list[Card]:
    """Loss and held-out bits per byte."""
    metrics, evaluation = run.metrics, run.evaluation
    train = metrics.series("loss") if metrics else None
    heldout = metrics.series("heldout/loss") if metrics else None
    bits = heldout_bits(run)
    both = bits is not None and (train or heldout)
    cards = []
    if train or heldout:
        chart = charts.loss_chart(train, heldout, charts.MAIN if both else charts.FULL)
        cards.append(Card("Loss", "nats per token", chart, captions.loss(train, heldout)))
    if bits is not None:
        baselines = evaluation.baselines.named if evaluation else {}
        chart = charts.bits_per_byte_chart(bits, baselines, charts.SIDE if both else charts.FULL)
        cards.append(
            Card(
                "Held-out text",
                "bits per byte",
                chart,
                captions.bits_per_byte(bits, baselines, whole=evaluation is not None),
            )
        )
    return cards


def heldout_bits(run: Run) -> charts.Series | None:
    """Bits per byte while training, measured on a part of the held-out text, up to the evaluation of all of it."""
    series = run.metrics.series("heldout/bits_per_byte") if run.metrics else None
    value = run.evaluation.heldout_bits_per_byte if run.evaluation else None
    if value is None or not math.isfinite(value):
        return series
    steps, values = series if series is not None else (np.empty(0), np.empty(0))
    last = float(run.status.step or 0) if run.status else float(steps.max(initial=0))
    before = steps < last
    return np.append(steps[before], last), np.append(values[before], value)


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


def row_size(cards: int) -> charts.Size:
    """How wide a card of a row is drawn: three share a row, two or four stand in pairs."""
    return {1: charts.FULL, 2: charts.HALF, 4: charts.HALF}.get(cards, charts.SMALL)


def spread(values: Column) -> float:
    """Largest over median of the positive values; 1 where there is no telling, as a logarithm could not show it."""
    finite = values[np.isfinite(values)]
    return float(finite.max() / np.median(finite)) if finite.size and finite.min() > 0 else 1.0


def heat(run: Run) -> Heat | None:
    """Expert load over time, a map a layer."""
    if run.load is None or not run.load.layers:
        return None
    limit = charts.heat_limit(run.load.ratio_LEC)
    maps = tuple(
        charts.heat_map(layer, ratio, limit) for layer, ratio in zip(run.load.shown, run.load.ratio_LEC, strict=True)
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
    limit = charts.heat_limit(np.concatenate(known))
    strips = ["" if ratio is None else charts.heat_image(ratio[None], limit, rows=1, columns=480) for ratio in ratios]
    return [LayerRow(row, strip) for row, strip in zip(rows, strips, strict=True)], captions.heat_legend(limit)


def bars(run: Run) -> list[Bar]:
    """Where time went, over the stages and within a step, and where the parameters are."""
    found = []
    if run.stages and sum(run.stages.values()) > 0:
        found.append(
            Bar(
                "Time by stage",
                formats.duration(sum(run.stages.values())),
                _parts(run.stages, formats.duration),
                captions.largest(run.stages, "a total of"),
            )
        )
    step = step_seconds(run)
    if step:
        found.append(
            Bar(
                "Time within a step",
                formats.duration(sum(step.values())),
                _parts(step, formats.duration),
                captions.largest(step, "an average step of"),
            )
        )
    held = run.status.parameters if run.status else None
    roles = (
        {name.replace("_", " "): float(number) for name, number in held.by_role.items() if number > 0} if held else {}
    )
    if held and roles:
        ordered = dict(sorted(roles.items(), key=lambda role: -role[1]))
        found.append(
            Bar(
                "Parameters by role",
                formats.count(held.total),
                _parts(ordered, formats.count),
                captions.parameters(held),
            )
        )
    return found


def step_seconds(run: Run) -> dict[str, float]:
    """Mean seconds of each phase of a step, in the order they were logged."""
    if run.metrics is None:
        return {}
    means = {
        name.removeprefix("seconds/"): float(series[1][np.isfinite(series[1])].mean())
        for name in run.metrics.train
        if name.startswith("seconds/") and (series := run.metrics.series(name))
    }
    return {name: value for name, value in means.items() if value > 0}


def _parts(values: Mapping[str, float], show: Callable[[float], str]) -> tuple[Part, ...]:
    total = sum(values.values())
    return tuple(Part(name, show(value), value / total) for name, value in values.items() if value > 0)


def size_parts(run: Run) -> list[Part]:
    """Sizes, as shares of the largest."""
    rows = [row for row in run.sizes or [] if row.bytes >= 0]
    largest = max((row.bytes for row in rows), default=0) or 1
    return [Part(row.format, formats.size(row.bytes), row.bytes / largest) for row in rows]


def network_cards(run: Run) -> list[Card]:
    """The predicted exchange; none where the simulation holds no rows."""
    rows = sorted(run.simulation.rows, key=lambda row: row.gpus) if run.simulation else []
    if not rows:
        return []
    return [
        Card(
            "Exchange between experts",
            "dispatch and combine",
            network_charts.network_chart(rows),
            network_charts.network_caption(rows),
        )
    ]


def network_details(run: Run) -> list[Card]:
    """Load of the GPUs and tail of the steps; none where the simulation does not say."""
    rows = sorted(run.simulation.rows, key=lambda row: row.gpus) if run.simulation else []
    loaded = [row for row in rows if row.load]
    steps = [
        {"gpus": row.gpus, "step_quantiles": row.step_quantiles} for row in rows if len(row.step_quantiles or ()) == 101
    ]
    cards: list[Card] = []
    if loaded:
        unit = f"{loaded[-1].gpus:,} GPUs, 1 is the mean"
        caption = "Bytes that each GPU gets, over all layers and steps."
        cards.append(Card("Load of the GPUs", unit, network_charts.load_chart(loaded[-1].load or []), caption))
    if steps:
        caption = "How much longer than the median the exchanges of a step take."
        cards.append(Card("Tail of the steps", "% that take longer", network_charts.tail_chart(steps), caption))
    return cards


def command(run: Run) -> str:
    """The line that starts the same run again."""
    if run.environment is None:
        return ""
    return run.environment.command or shlex.join(run.environment.argv)


def hints(run: Run) -> dict[str, list[Hint]]:
    """For each section of the page, what it lacks and the command that adds it."""
    where = shlex.quote(str(run.path))
    dense = run.dense
    wanted = (
        ("learning", "training metrics", run.metrics, "penstock train CONFIG"),
        ("learning", "held-out evaluation", heldout_bits(run), f"penstock evaluate {where}"),
        ("balance", "trace of expert load", run.load or dense, "penstock train CONFIG"),
        ("balance", "profile of the layers", run.profile or dense, f"penstock profile {where}"),
        ("cost", "stage times", run.stages, "penstock quickstart"),
        ("cost", "parameter counts", run.status and run.status.parameters, "penstock train CONFIG"),
        ("cost", "size table", run.sizes, "penstock train CONFIG"),
        ("evaluation", "evaluation", run.evaluation, f"penstock evaluate {where}"),
        (
            "network",
            "network prediction",
            (run.simulation and run.simulation.rows) or dense,
            f"penstock simulate {where}",
        ),
        ("reproduce", "record of the environment", run.environment, "penstock train CONFIG"),
        ("reproduce", "resolved config", run.config_text, "penstock train CONFIG"),
        ("reproduce", "plugin lock", run.plugins, "penstock train CONFIG"),
    )
    found: dict[str, list[Hint]] = {section: [] for section, *_ in wanted}
    for section, what, present, line in wanted:
        if present is None or present is False or (isinstance(present, str | list | dict) and not present):
            found[section].append(Hint(what, line))
    return found
