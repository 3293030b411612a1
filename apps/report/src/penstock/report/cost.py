"""The section about time and size: stages, parts of a step, parameters by role, and bytes by format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from penstock.pages import formats
from penstock.report import captions
from penstock.report.data import Run


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


def bars(run: Run) -> list[Bar]:
    """Time by stage and within a step, and parameters by role."""
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
