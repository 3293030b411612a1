"""Sentences below the charts. Each is computed from the data in the chart, so it cannot claim what is not there.

Shape suffixes: L layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.hooks.contracts import Interval
from penstock.pages.drawing import Column
from penstock.pages.formats import TIMES, count, duration, number, percent, rounded, size, times
from penstock.pages.heat_maps import SORTED_ABOVE
from penstock.pages.lines import ending, frame_top
from penstock.report.basis import Basis
from penstock.report.data import LoadHistory
from penstock.report.headline import against
from penstock.run.records.profile import Profile
from penstock.run.records.training import FormatSize, ParameterCounts

Series = tuple[Column, Column]

ROWS_FOR_TAILS = 40
"""Fewest steps of which the slowest twentieth is stated: it is then two steps."""


def finite(series: Series) -> Series:
    """The points whose value is a number."""
    keep = np.isfinite(series[1])
    return series[0][keep], series[1][keep]


def tenth(values: Column) -> int:
    return max(1, len(values) // 10)


def plural(amount: int, noun: str, many: str = "") -> str:
    """
    >>> plural(1, "step"), plural(12_000, "step")
    ('1 step', '12,000 steps')
    """
    return f"{amount:,} {noun if amount == 1 else many or noun + 's'}"


def loss(train: Series | None, heldout: Series | None) -> str:
    """Where the loss starts and ends, and whether it is still changing."""
    if train is None:
        return heldout_loss(heldout) if heldout else ""
    steps, values = finite(train)
    if len(values) == 1:
        return f"One step was recorded, step {steps[0]:,.0f}, with a loss of {number(values[0])} nats per token."
    last = tenth(values)
    end, rows = ending(train[1])
    where = f"mean of the last {rows:,} rows" if rows > 1 else f"step {steps[-1]:,.0f}"
    start = f"{number(values[0])} at step {steps[0]:,.0f}"
    text = f"Loss {_moves(values[0], end)} from {start} to {number(end)} nats per token ({where})"
    if last > 1:
        text += _tail(values, last)
    missing = len(train[1]) - len(values)
    if missing:
        first = train[0][~np.isfinite(train[1])][0]
        text += f"; {plural(missing, 'row')} without a finite loss, the first at step {first:,.0f}"
    if frame_top(values) < values.max():
        text += f"; a spike to {number(values.max())} at step {steps[values.argmax()]:,.0f} is outside the frame"
    text += "."
    return f"{text} {heldout_loss(heldout)}" if heldout and np.isfinite(heldout[1]).any() else text


def heldout_loss(series: Series) -> str:
    steps, values = finite(series)
    return f"Held-out loss is {number(values[-1])} nats per token at step {steps[-1]:,.0f}."


def _tail(values: Column, last: int) -> str:
    """Whether the loss still changes in the last tenth of a run: by at least a hundredth of the whole change."""
    if len(values) < 3 * last:
        return ""
    before, end = float(values[-2 * last : -last].mean()), float(values[-last:].mean())
    if abs(before - end) < 0.01 * abs(values[0] - end):
        return ", level over the last tenth"
    return f", still {'falling' if end < before else 'rising'} by {number(abs(before - end))} over the last tenth"


def _moves(first: float, last: float) -> str:
    if math.isclose(first, last, rel_tol=0.005):
        return "stays"
    return "falls" if last < first else "rises"


def whole_text(value: float, step: float, text: str, interval: Interval | None, baselines: Mapping[str, float]) -> str:
    """Bits per byte of all held-out text, which the baselines read too."""
    amount = f" ({text})" if text else ""
    words = f"All held-out text{amount} takes {number(value)} bits per byte at step {step:,.0f}"
    if interval is not None:
        words += ", 95 % interval {} to {}".format(*rounded((interval.low, interval.high), interval))
    if baselines:
        words += ": " + ", ".join(
            f"{against(value, baseline, name)} ({number(baseline)})" for name, baseline in baselines.items()
        )
    return words + "."


def part_of_text(series: Series, part: str, *, compared: bool) -> str:
    """Bits per byte of the part that training reads; `compared`: a figure of the whole text is next to it."""
    steps, values = finite(series)
    words = f"In training, {part} of the held-out text take {number(values[-1])} at step {steps[-1]:,.0f}"
    best = int(values.argmin())
    if best != len(values) - 1 and values[best] < values[-1] * 0.995:
        words += f"; the lowest, {number(values[best])}, was at step {steps[best]:,.0f}"
    return words + (". The two are not comparable: the text differs." if compared else ".")


def learning_rate(series: Series) -> str:
    steps, values = finite(series)
    peak = int(values.argmax())
    text = f"Peaks at {number(values[peak])} at step {steps[peak]:,.0f}"
    if values[peak] > 0 and peak < len(values) - 1:
        text += f" and ends at {number(values[-1])}, {percent(values[-1] / values[peak])} of the peak"
    return text + "."


def gradient_norm(series: Series) -> str:
    steps, values = finite(series)
    largest = int(values.argmax())
    text = (
        f"Median {number(np.median(values))}; the largest, {number(values[largest])}, is at step {steps[largest]:,.0f}"
    )
    missing = len(series[1]) - len(values)
    return text + (f"; not finite in {plural(missing, 'row')}." if missing else ".")


def throughput(series: Series) -> str:
    values = finite(series)[1]
    middle = float(np.median(values))
    if len(values) < ROWS_FOR_TAILS:
        low, high = float(values.min()), float(values.max())
        steps = plural(len(values), "step")
        return f"Median {count(middle)} tokens per second of {steps}, from {count(low)} to {count(high)}."
    low, high = np.quantile(values, (0.05, 0.95))
    return f"Median {count(middle)} tokens per second; nine steps in ten are between {count(low)} and {count(high)}."


def change(name: str, series: Series, meaning: str = "") -> str:
    """The first tenth of one balance figure against its end."""
    values = finite(series)[1]
    first, last = float(values[: tenth(values)].mean()), ending(series[1])[0]
    verb, note = _moves(first, last), f" ({meaning})" if meaning else ""
    if verb == "stays":
        return f"{name} stays at {number(last)}{note}."
    return f"{name} {verb} from {number(first)} in the first tenth of the run to {number(last)} at its end{note}."


def violation(mean: Series | None, worst: Series | None) -> str:
    parts = []
    if mean is not None:
        parts.append(change("MaxVio per batch, averaged over layers,", mean, "0 is even"))
    if worst is not None:
        parts.append(f"The worst layer ends at {number(ending(worst[1])[0])}.")
    return " ".join(parts)


def load(history: LoadHistory) -> str:
    """The busiest and the idle experts at the end of the run, over all layers."""
    ratio = history.last_LE
    if not np.isfinite(ratio).any():
        return "No assignments were recorded."
    layer, expert = np.unravel_index(int(np.nanargmax(ratio)), ratio.shape)
    idle = int((ratio == 0).sum())
    text = (
        f"In the last tenth of the run the busiest expert, number {expert} of layer {history.layers[layer]}, has "
        f"{times(float(ratio[layer, expert]))} its fair share, and "
        f"{f'{idle:,} of {ratio.size:,} experts are never chosen' if idle else 'every expert is chosen'}."
    )
    if len(history.shown) < len(history.layers):
        text += f" {len(history.shown)} of {len(history.layers)} layers are shown, evenly spaced."
    order = ", sorted by its load over the run" if ratio.shape[1] > SORTED_ABOVE else ""
    return f"{text} Each line is an expert{order}; time runs to the right."


def layers(profile: Profile) -> str:
    known = [
        (row.max_violation, row.layer)
        for row in profile.layers
        if row.max_violation is not None and math.isfinite(row.max_violation)
    ]
    if not known:
        return ""
    worst, best = max(known), min(known)
    text = f"Layer {worst[1]} is the most uneven (MaxVio {number(worst[0])})"
    text += f", layer {best[1]} the most even ({number(best[0])})" if len(known) > 1 else ""
    dead = [row.dead_experts for row in profile.layers if row.dead_experts is not None]
    if dead:
        text += "; no expert is dead" if not sum(dead) else f"; {plural(round(sum(dead)), 'expert')} dead"
    if profile.max_violation_batch is not None and profile.max_violation_global is not None:
        text += (
            f". MaxVio is {number(profile.max_violation_batch)} within a batch and "
            f"{number(profile.max_violation_global)} over the whole text"
        )
    return text + "."


def largest(parts: Mapping[str, float], whole: str) -> str:
    """The largest part of a stacked bar of seconds."""
    total = sum(parts.values())
    name, value = max(parts.items(), key=lambda part: part[1])
    return f"{name.capitalize()} takes {percent(value / total)} of {whole} {duration(total)}."


def parameters(held: ParameterCounts) -> str:
    name, value = max(held.by_role.items(), key=lambda part: part[1])
    text = f"{percent(value / sum(held.by_role.values()))} of {count(held.total)} parameters are {name} weights"
    if held.active is not None and held.total:
        text += f"; a token uses {count(held.active)} of all, {percent(held.active / held.total)}"
    return text + "."


def sizes(rows: Sequence[FormatSize]) -> str:
    big, small = max(rows, key=lambda row: row.bytes), min(rows, key=lambda row: row.bytes)
    if small.bytes <= 0 or big is small:
        return f"As {small.format} the weights take {size(small.bytes)}."
    ratio = number(big.bytes / small.bytes)
    return f"As {small.format} the weights take {size(small.bytes)}, as {big.format} {ratio} times as much."


def ranking(names: Sequence[str], values: Sequence[float | None], bases: Sequence[Basis], what: str) -> str:
    """Which run is lowest and by how much, among runs that were measured on the same thing; the others are named."""
    known = [
        (name, value, basis)
        for name, value, basis in zip(names, values, bases, strict=True)
        if value is not None and math.isfinite(value)
    ]
    if len(known) < 2:
        return ""
    groups: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for name, value, basis in known:
        if basis.key:
            groups.setdefault(basis.key, []).append((value, name))
    ranked = [_lowest(group, what) for group in groups.values() if len(group) > 1]
    unrecorded = [name for name, _, basis in known if not basis.key]
    if len(groups) > 1:
        ranked.append(f"The {what} of {listed(names_of(groups))} are not ranked: they were not measured on the same.")
    if unrecorded:
        ranked.append(f"What the {what} of {listed(unrecorded)} was measured on is not recorded, so it is not ranked.")
    return " ".join(ranked)


def names_of(groups: Mapping[tuple[str, ...], Sequence[tuple[float, str]]]) -> list[str]:
    """One run of each group."""
    return [group[0][1] for group in groups.values()]


def listed(names: Sequence[str]) -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _lowest(group: Sequence[tuple[float, str]], what: str) -> str:
    (value, name), (second, runner_up) = sorted(group)[:2]
    if number(value) == number(second):
        return f"{name} and {runner_up} share the lowest {what}, {number(value)} in the digits shown."
    return f"{name} has the lowest {what}, {number(value)}, {number(second - value)} below {runner_up}."


def amount(details: Mapping[str, Any], intervals: Mapping[str, Interval]) -> str:
    """What a task read, from its details and the samples of its intervals.

    >>> amount({"bytes": 2000, "items": 1, "standard_error_blocks": "documents"}, {"a": Interval(0, 1, 1, 45, "")})
    '45 documents, 2.00\xa0kB'
    """
    samples = next((each.samples for each in intervals.values()), None) or details.get("n") or details.get("items")
    unit = details.get("standard_error_blocks") if intervals else "items"
    unit = unit if isinstance(unit, str) else "items"
    read = details.get("bytes")
    parts = [
        f"{samples:,} {unit.removesuffix('s') if samples == 1 else unit}" if isinstance(samples, int) else "",
        size(read) if isinstance(read, int) else "",
    ]
    return ", ".join(filter(None, parts))


def coincide(groups: Sequence[Sequence[str]]) -> str:
    """Which lines of a chart lie on one another."""
    return " ".join(f"The lines of {listed(group)} coincide." for group in groups)


def heat_legend(limit: float) -> tuple[str, str, str]:
    """Names of the two ends and the middle of the colour scale."""
    return f"{number(1 / limit)}{TIMES} or less", "fair share", f"{limit:g}{TIMES} or more"
