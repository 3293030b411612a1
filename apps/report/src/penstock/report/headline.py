"""The main figures of a run, for the tiles on top and for the comparison of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from penstock.pages.formats import NO_BREAK, TIMES, count, duration, number, percent
from penstock.report.data import Run


@dataclass(frozen=True, slots=True)
class Figure:
    """A named quantity of a run; `better` says which end of a comparison wins, if any."""

    name: str
    short: str
    value: Callable[[Run], float | None]
    show: Callable[[float | None], str]
    note: Callable[[Run], str]
    better: Literal["low", "high", ""] = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure with its value, ready to print."""

    name: str
    value: str
    unit: str
    note: str


def tiles(run: Run) -> list[Tile]:
    """The figures that this run has."""
    found = [(figure, value) for figure in FIGURES if (value := figure.value(run)) is not None and math.isfinite(value)]
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
    words = str(model.get("use") or "A model")
    if isinstance(model.get("preset"), str):
        words += f" ({model['preset']})"
    router = model.get("router")
    if not isinstance(router, dict) or run.dense:
        return words
    words += f", {router.get('use', 'its router')} choosing"
    layers = run.profile.layers if run.profile else []
    experts = f"{len(layers[0].counts)} experts" if layers and layers[0].counts else "the experts"
    return f"{words} {router['k']} of {experts} per token" if "k" in router else f"{words} among {experts}"


def bits_per_byte(run: Run) -> float | None:
    """From the evaluation, else the last value measured in training."""
    if run.evaluation and run.evaluation.heldout_bits_per_byte is not None:
        return run.evaluation.heldout_bits_per_byte
    return _last(run, "heldout/bits_per_byte")


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
    value = bits_per_byte(run)
    named = run.evaluation.baselines.named if run.evaluation else {}
    wanted: Mapping[str, Any] = {name: named[name] for name in ("bigram", "xz") if name in named}
    return ", ".join(against(value, baseline, name) for name, baseline in wanted.items()) if value is not None else ""


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


FIGURES = (
    Figure("Held-out bits per byte", "bits per byte", bits_per_byte, number, _bits_note, "low"),
    Figure("Tokens trained", "tokens", tokens, count, _tokens_note),
    Figure("Tokens per second", "tokens/s", speed, count, lambda run: "median of training steps", "high"),
    Figure("Parameters", "parameters", parameters, count, _parameters_note),
    Figure("MaxVio, global", "MaxVio", violation, number, _violation_note, "low"),
    Figure("Wall time", "wall time", wall_seconds, duration, _wall_note),
)
