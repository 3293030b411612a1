"""`penstock profile MODEL --modify`: what other assignments cost in quality and gain in balance and communication."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from penstock.eval_suite.likelihood import token_nll
from penstock.eval_suite.metrics import bits_per_byte, token_perplexity
from penstock.hooks.problems import Problem, ProblemError
from penstock.hooks.registry import Choice
from penstock.netsim.simulate import simulate
from penstock.pages import drawing
from penstock.pages.card import Card
from penstock.pages.page import write_page
from penstock.profile.reassignment import STRATEGIES, modified
from penstock.profile.subject import Subject
from penstock.run.records.modification import ModificationRow, ModifiedRouting
from penstock.traces.load import max_violation
from penstock.traces.trace import RoutingTrace

TEMPLATE = Path(__file__).with_name("modified.html.j2")

COLUMNS = (
    "strategy",
    "fraction",
    "changed",
    "bits/byte",
    "perplexity",
    "MaxVio",
    "MaxVio per batch",
    "exchange, us",
    "slowdown",
    "Pareto",
)
HELP = (
    "`changed` is the share of assignments that differ from the router's. `exchange` is dispatch and combine of a "
    "layer with one expert per GPU; `slowdown` compares it with evenly loaded experts. A row is on the Pareto front if "
    "no other row beats it in quality, MaxVio and exchange together. A token is sent once for each of its experts, "
    "also to two on one node; kernels that send it once per node move less."
)


def strategies_of(text: str) -> list[str]:
    """Strategies of a comma-separated list, or `all`; raises `ProblemError` for an unknown name."""
    names = list(STRATEGIES) if text == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        what, fix = f"unknown strategy '{unknown[0]}'", f"use all, or some of {', '.join(STRATEGIES)}"
        raise ProblemError(Problem("bad-value", what, "--modify", fix))
    return list(dict.fromkeys(names))


def fractions_of(text: str) -> list[float]:
    """Fractions of a comma-separated list, sorted; raises `ProblemError` for anything outside 0 to 1."""
    try:
        fractions = [float(part) for part in text.split(",")]
    except ValueError:
        fractions = [-1.0]
    if not all(0 <= fraction <= 1 for fraction in fractions):
        what, fix = f"'{text}' is not a list of numbers from 0 to 1", "write a list such as 0,0.25,0.5,1"
        raise ProblemError(Problem("bad-value", what, "--fraction", fix))
    return sorted(set(fractions))


@dataclass(frozen=True, slots=True)
class Wire:
    """The network for predicting communication, and the width of a token on it."""

    topology: Choice
    placement: Choice
    tokens_per_gpu: int
    hidden_size: int


def modification_result(
    subject: Subject,
    wire: Wire,
    strategies: Sequence[str],
    fractions: Sequence[float],
    *,
    temperature: float,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> ModifiedRouting:
    """What `modified.json` holds: the model's own routing first, then each strategy at each fraction above 0.
    `progress` is called with the rows done and in total."""
    cases = [("router", 0.0), *((name, fraction) for name in strategies for fraction in fractions if fraction > 0)]
    rows: list[ModificationRow] = []
    for case in cases:
        rows.append(_row(subject, wire, *case, temperature))
        progress(len(rows), len(cases))
    return ModifiedRouting(
        model=subject.name,
        checkpoint=subject.header.get("checkpoint"),
        split=subject.header["split"],
        tokens=subject.tokens,
        temperature=temperature,
        topology=wire.topology.entry.component.name,
        gpus=next(iter(subject.model.routers.values())).experts,
        rows=[replace(row, pareto=not any(_beats(other, row) for other in rows)) for row in rows],
    )


def _row(subject: Subject, wire: Wire, strategy: str, fraction: float, temperature: float) -> ModificationRow:
    layers = sorted(subject.model.routers)
    with modified(subject.model, strategy, fraction, temperature=temperature) as found:
        nll_N = np.concatenate([_nll(subject, stream.token_N) for stream in subject.streams])
    if not all(found.counts.values()):
        what = "the model does not call its routers as modules, so their choices cannot be changed"
        raise ProblemError(Problem("unsupported", what, "--modify", "profile it without --modify"))
    counts_SLE = found.counts_SLE(layers)
    trace = RoutingTrace(counts_SLE, {**subject.header, "layers": layers})
    (network,) = simulate(
        trace,
        wire.topology.build(),
        wire.placement.build(),
        gpus=[counts_SLE.shape[2]],
        hidden_size=wire.hidden_size,
        tokens_per_gpu=wire.tokens_per_gpu,
    )
    return ModificationRow(
        strategy=strategy,
        fraction=fraction,
        changed=found.changed / found.total,
        bits_per_byte=bits_per_byte(nll_N, subject.byte_count),
        perplexity=token_perplexity(nll_N),
        max_violation=max_violation(trace.counts_LE).mean().item(),
        max_violation_batch=max_violation(counts_SLE).mean().item(),
        exchange_seconds=network.dispatch.mean + network.combine.mean,
        slowdown=network.slowdown,
    )


def _nll(subject: Subject, token_N: np.ndarray) -> np.ndarray:
    return token_nll(subject.model, token_N, sequence_length=subject.sequence_length, batch_size=subject.batch_size)


def _aims(row: ModificationRow) -> tuple[float, ...]:
    """The quantities to minimise."""
    return (row.bits_per_byte, row.max_violation, row.exchange_seconds)


def _beats(one: ModificationRow, other: ModificationRow) -> bool:
    """Pareto dominance: nowhere worse and somewhere better."""
    pairs = list(zip(_aims(one), _aims(other), strict=True))
    return all(mine <= theirs for mine, theirs in pairs) and any(mine < theirs for mine, theirs in pairs)


def line(row: ModificationRow) -> tuple[str, ...]:
    """One line of the table, with the columns `COLUMNS`."""
    return (
        row.strategy,
        f"{row.fraction:g}",
        f"{row.changed:.3f}",
        f"{row.bits_per_byte:.4f}",
        f"{row.perplexity:.2f}",
        f"{row.max_violation:.3f}",
        f"{row.max_violation_batch:.3f}",
        f"{1e6 * row.exchange_seconds:.1f}",
        f"{row.slowdown:.3f}",
        "yes" if row.pareto else "no",
    )


def write_modification_page(title: str, result: ModifiedRouting, out: Path) -> Path:
    """Atomically writes the page of `modification_result`."""
    rows = result.rows
    text = "held-out text" if result.split == "heldout" else "the given text"
    quality = "bits per byte, lower is better"
    balance = _pareto_chart("balance", rows, lambda row: row.max_violation, "MaxVio")
    times = "predicted exchange, relative to evenly loaded experts"
    exchange = _pareto_chart("exchange", rows, lambda row: row.slowdown, times)
    caption = "A line per strategy, from the router's own assignments on; a point per fraction. Rings: Pareto front."
    cards = [
        Card("Quality against balance", quality, balance, caption),
        Card(
            "Quality against communication",
            quality,
            exchange,
            f"One expert per GPU, {result.gpus} GPUs on {result.topology}.",
        ),
    ]
    return write_page(
        TEMPLATE,
        out,
        name=title,
        text=text,
        summary=f"The effect of other assignments on {result.checkpoint or result.model}, on {result.tokens:,} "
        f"tokens of {text}.",
        cards=cards,
        columns=COLUMNS,
        rows=[line(row) for row in rows],
        caption=HELP,
    )


def _pareto_chart(
    name: str, rows: Sequence[ModificationRow], aim: Callable[[ModificationRow], float], label: str
) -> drawing.Chart:
    """Bits per byte over another quantity: a line per strategy, starting at the router's own point."""
    own, *others = rows
    lines = {strategy: [own, *group] for strategy, group in groupby(others, key=lambda row: row.strategy)}

    def plot(axes: Axes, size: drawing.Size) -> None:
        for index, points in enumerate(lines.values()):
            x, y = [aim(row) for row in points], [row.bits_per_byte for row in points]
            axes.plot(x, y, color=drawing.SERIES[index], linewidth=1.6, marker="o", markersize=5)
        front = [row for row in rows if row.pareto]
        at = [aim(row) for row in front], [row.bits_per_byte for row in front]
        axes.plot(*at, linestyle="", marker="o", markersize=10, fillstyle="none", color=drawing.INK, zorder=6)
        drawing.frame(axes, size, label)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.08, y=0.12)

    keys = tuple(drawing.Key(strategy, index) for index, strategy in enumerate(lines, 1))
    return drawing.draw(plot, f"pareto-{name}", keys, drawing.HALF)
