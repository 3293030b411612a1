"""Leaves out figures that cannot be: no figure of a run's records is negative, infinite or not a number.

A field with such a value takes its default, usually None, and a record without a default for it is left out. Each is a
`Problem` that names the record, because a page that drops a figure in silence looks like a run that never measured it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any, TypeVar

from penstock.hooks.problems import Problem

T = TypeVar("T")

SIGNED = (
    *("details", "seed", "value", "difference", "stored", "now", "scores"),
    *("interval", "intervals", "group_intervals"),
)
"""Fields that may hold any number."""
NEVER_NEGATIVE = ("bits_per_byte", "perplexity")
"""Metrics of tasks that cannot be negative; others can, such as a correlation."""

_LEFT_OUT = object()


def plausible(value: T, where: str, problems: list[Problem]) -> T | None:
    """The record, or the container of records, without its impossible values; None if nothing is left of it."""
    cleaned = _cleaned(value, where, problems)
    return None if cleaned is _LEFT_OUT else cleaned


def impossible(value: float) -> str:
    """Why a figure cannot be this value; empty if it can.

    >>> impossible(-0.5), impossible(0.0)
    ('-0.5 is below 0', '')
    """
    if not math.isfinite(value):
        return f"{value} is not a number" if math.isnan(value) else f"{value} is not finite"
    return f"{value:g} is below 0" if value < 0 else ""


def _cleaned(value: Any, where: str, problems: list[Problem]) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        reason = impossible(value)
        if not reason:
            return value
        problems.append(Problem("impossible-value", f"{reason}, so it is left out", where, "measure it again"))
        return _LEFT_OUT
    if is_dataclass(value) and not isinstance(value, type):
        return _record(value, where, problems)
    if isinstance(value, Mapping):
        return _mapping(value, where, problems)
    if isinstance(value, list):
        return _list(value, where, problems)
    return value


def _record(value: Any, where: str, problems: list[Problem]) -> Any:
    changed: dict[str, Any] = {}
    for each in fields(value):
        own = getattr(value, each.name)
        if each.name in SIGNED:
            continue
        cleaned = _cleaned(own, f"{where}: {each.name}" if ": " not in where else f"{where}.{each.name}", problems)
        if cleaned is _LEFT_OUT:
            cleaned = _default(each)
        if cleaned is _LEFT_OUT:
            return _LEFT_OUT
        if cleaned is not own:
            changed[each.name] = cleaned
    return replace(value, **changed) if changed else value


def _default(each: Field[Any]) -> Any:
    if each.default is not MISSING:
        return each.default
    return _LEFT_OUT if each.default_factory is MISSING else each.default_factory()


def _mapping(value: Mapping[str, Any], where: str, problems: list[Problem]) -> Any:
    kept: dict[str, Any] = {}
    for key, own in value.items():
        place = f"{where}.{key}" if ": " in where else f"{where}: {key}"
        is_metric = (".metrics." in place or ".groups." in place) and isinstance(own, int | float)
        signed = is_metric and not any(name in key for name in NEVER_NEGATIVE)
        cleaned = own if signed and math.isfinite(own) else _cleaned(own, place, problems)
        if cleaned is not _LEFT_OUT:
            kept[key] = cleaned
    return kept if any(kept.get(key, _LEFT_OUT) is not own for key, own in value.items()) else value


def _list(value: list[Any], where: str, problems: list[Problem]) -> Any:
    """A list of numbers is one figure, so it is left out as a whole; of a list of records, only the record is."""
    kept: list[Any] = []
    for index, own in enumerate(value):
        cleaned = _cleaned(own, f"{where}.{index}" if ": " in where else f"{where}: {index}", problems)
        if cleaned is not _LEFT_OUT:
            kept.append(cleaned)
        elif isinstance(own, int | float):
            return _LEFT_OUT
    return (
        value
        if all(one is other for one, other in zip(kept, value, strict=False)) and len(kept) == len(value)
        else kept
    )
