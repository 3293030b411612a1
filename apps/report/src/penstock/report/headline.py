"""The main figures of a run, for the tiles on top and for the comparison of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from penstock.hooks.contracts import Interval
from penstock.pages.formats import NO_BREAK, TIMES, count, duration, number, percent, rounded
from penstock.report import basis
from penstock.report.basis import Basis
from penstock.report.data import Run
from penstock.report.labels import plain


@dataclass(frozen=True, slots=True)
class Figure:
    """A named quantity of a run. `better` says which end of a comparison wins, if any, among runs in which it has the
    same `basis`."""

    name: str
    short: str
    value: Callable[[Run], float | None]
    show: Callable[[float | None], str]
    note: Callable[[Run], str]
    better: Literal["low", "high", ""] = ""
    basis: Callable[[Run], Basis] = lambda run: basis.UNRECORDED


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure with its value, ready to print."""

    name: str
    value: str
    unit: str
    note: str


def tiles(run: Run) -> list[Tile]:
    """The figures that this run has."""
    figures = [figure for figure in FIGURES if figure is not PARTIAL or evaluated_bits(run) is None]
    found = [(figure, value) for figure in figures if (value := figure.value(run)) is not None and math.isfinite(value)]
    return [Tile(figure.name, *_split(figure.show(value)), figure.note(run)) for figure, value in found]


def summary(run: Run) -> str:
    """One sentence: what was trained, on how many tokens, and the state of the run."""
    parts = [_model(run)]
    seen = tokens(run)
    if seen is not None:
        spent = run.status.seconds if run.status else None
        parts.append(f"trained on {count(seen)} tokens" + (f" in {duration(spent)}" if spent else ""))
    if run.status and run.status.step is not None:
        of = f" of {run.status.steps:,}" if run.status.steps is not None else ""
        parts.append(f"{run.status.state} at step {run.status.step:,}{of}")
    return ", ".join(part for part in parts if part) + "."


def _model(run: Run) -> str:
    model = run.config.get("model")
    model = model if isinstance(model, dict) else {}
    words = plain(str(model.get("use") or "A model"))
    if isinstance(model.get("preset"), str):
        words += f" ({model['preset']})"
    router = model.get("router")
    if not isinstance(router, dict) or run.dense:
        return words
    words += f", {plain(str(router.get('use', 'its router')))} choosing"
    known = experts_of(run)
    experts = f"{known:,} experts" if known else "its experts"
    return f"{words} {router['k']} of {experts} per token" if "k" in router else f"{words} among {experts}"


def experts_of(run: Run) -> int | None:
    """Routed experts per layer, from what was recorded, else from the config."""
    if run.load is not None and run.load.layers:
        return int(run.load.last_LE.shape[1])
    layers = run.profile.layers if run.profile else []
    if layers and layers[0].counts:
        return len(layers[0].counts)
    model = run.config.get("model")
    given = [model.get(name) for name in EXPERT_SETTINGS] if isinstance(model, dict) else []
    return next((value for value in given if isinstance(value, int)), None)


def evaluated_bits(run: Run) -> float | None:
    """Bits per byte of all held-out text, by `penstock evaluate`."""
    return run.evaluation.heldout_bits_per_byte if run.evaluation else None


def partial_bits(run: Run) -> float | None:
    """Bits per byte of the part of the held-out text that training reads, at its last evaluation."""
    return _last(run, "heldout/bits_per_byte")


def bits_interval(run: Run) -> Interval | None:
    """How far `evaluated_bits` may be off by the choice of documents."""
    task = run.evaluation.tasks.get("heldout") if run.evaluation else None
    found = [each for name, each in task.intervals.items() if "bits_per_byte@" in name] if task else []
    return next(iter(found), None)


def tokens(run: Run) -> float | None:
    """Tokens trained on."""
    if run.status and run.status.tokens_seen is not None:
        return run.status.tokens_seen
    return _last(run, "tokens")


def speed(run: Run) -> float | None:
    """Median training throughput, tokens per second."""
    series = run.metrics.series("tokens_per_second") if run.metrics else None
    return None if series is None else float(np.nanmedian(series[1]))


def parameters(run: Run) -> float | None:
    return run.status.parameters.total if run.status and run.status.parameters else None


def violation(run: Run) -> float | None:
    """MaxVio over the whole profiled text."""
    return run.profile.max_violation_global if run.profile else None


def wall_seconds(run: Run) -> float | None:
    """All recorded stages together, or only training if no stages were recorded."""
    if run.stages:
        return sum(run.stages.values())
    return run.status.seconds if run.status else None


def against(value: float, baseline: float, name: str) -> str:
    """How a cost compares with a baseline, in words.

    >>> against(1.5, 2.0, "xz"), against(2.5, 2.0, "xz")
    ('25\\xa0% below xz', '25\\xa0% above xz')
    """
    share = value / baseline - 1
    return (
        f"level with {name}"
        if abs(share) < 5e-4
        else f"{percent(abs(share))} {'below' if share < 0 else 'above'} {name}"
    )


def _last(run: Run, name: str) -> float | None:
    series = run.metrics.series(name) if run.metrics else None
    return None if series is None else float(series[1][np.isfinite(series[1])][-1])


def _split(text: str) -> tuple[str, str]:
    """The last word of "4.20 M" is a unit; "4 min 12 s" stays whole."""
    value, space, unit = text.rpartition(NO_BREAK)
    return (value, unit) if space and NO_BREAK not in value else (text, "")


def _bits_note(run: Run) -> str:
    value, interval, text = evaluated_bits(run), bits_interval(run), basis.heldout_text(run).text
    if value is None:
        return ""
    named = run.evaluation.baselines.named if run.evaluation else {}
    grams = "5-gram" if "5-gram" in named else "bigram"  # evaluations of earlier releases have no 5-grams
    wanted: Mapping[str, float] = {name: named[name] for name in (grams, "xz") if name in named}
    notes = [", ".join(against(value, baseline, name) for name, baseline in wanted.items()), text]
    if interval is not None:
        notes.insert(1, "95 % interval {} to {}".format(*rounded((interval.low, interval.high), interval)))
    return "; ".join(filter(None, notes))


def _tokens_note(run: Run) -> str:
    seen, held = tokens(run), parameters(run)
    return f"{number(seen / held)} per parameter" if seen is not None and held else ""


def _parameters_note(run: Run) -> str:
    held = run.status.parameters if run.status else None
    if held is None or held.active is None or not held.total:
        return ""
    return f"{count(held.active)} active, {percent(held.active / held.total)}"


def _violation_note(run: Run) -> str:
    value = violation(run)
    return "" if value is None else f"busiest expert at {number(1 + value)}{TIMES} its share"


def _wall_note(run: Run) -> str:
    if not run.stages:
        return "training"
    name, seconds = max(run.stages.items(), key=lambda stage: stage[1])
    total = sum(run.stages.values())
    return f"{percent(seconds / total)} of it {name}" if total else ""


def _partial_note(run: Run) -> str:
    return f"last evaluation in training, on {basis.heldout_part(run).text} of the held-out text"


def _speed_note(run: Run) -> str:
    where = basis.machine(run).text
    return "median of training steps" + (f"; {where}" if where else "")


EXPERT_SETTINGS = ("n_routed_experts", "num_experts", "num_local_experts", "experts")
"""Settings that architectures call the number of routed experts per layer."""
EVALUATED = Figure(
    "Held-out bits per byte", "bits per byte", evaluated_bits, number, _bits_note, "low", basis.heldout_text
)
PARTIAL = Figure(
    "Held-out bits per byte, in part",
    "bits per byte, in training",
    partial_bits,
    number,
    _partial_note,
    "low",
    basis.heldout_part,
)
FIGURES = (
    EVALUATED,
    PARTIAL,
    Figure("Tokens trained", "tokens", tokens, count, _tokens_note),
    Figure("Tokens per second", "tokens/s", speed, count, _speed_note, "high", basis.machine),
    Figure("Parameters", "parameters", parameters, count, _parameters_note),
    Figure("MaxVio, global", "MaxVio", violation, number, _violation_note, "low", basis.profiled_text),
    Figure("Wall time", "wall time", wall_seconds, duration, _wall_note),
)
