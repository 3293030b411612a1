"""What a sandbox may be asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import get_args

from penstock.hooks.problems import Problem, ProblemError, did_you_mean
from penstock.sandbox.verdict import Level, Limits

_DAY = 86_400
_RANGES = {
    "seconds": (0.001, _DAY),
    "memory": (64 << 20, 1 << 46),
    "files": (1, 1 << 40),  # the kernel takes a size of 0 for no limit
    "processes": (1, 1 << 15),
    "output": (0, 1 << 30),
}
"""The least and the most of each limit. An interpreter does not start with less memory."""
_MOST_WORKERS = 1024


def require_settings(level: object, limits: Limits, workers: object) -> None:
    """Raises `ProblemError` for all that are out of their range."""
    problems = list(_problems(level, limits, workers))
    if problems:
        raise ProblemError(problems)


def _problems(level: object, limits: Limits, workers: object) -> Iterator[Problem]:
    if level not in get_args(Level):
        hint = did_you_mean(str(level), get_args(Level))
        yield Problem("invalid-value", f"unknown level {level!r}", "sandbox", hint)
    if not _within(workers, 1, _MOST_WORKERS, int):
        yield _out_of_range("workers", workers, f"a whole number from 1 to {_MOST_WORKERS}")
    for name, value in asdict(limits).items():
        least, most = _RANGES[name]
        kind, words = (float, "a number") if name == "seconds" else (int, "a whole number")
        if not _within(value, least, most, kind):
            yield _out_of_range(f"limits.{name}", value, f"{words} from {least} to {most}")


def _within(value: object, least: float, most: float, kind: type[int | float]) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(value, int | kind):
        return False
    return math.isfinite(value) and least <= value <= most


def _out_of_range(name: str, value: object, allowed: str) -> Problem:
    return Problem("invalid-value", f"{value!r} is out of range", f"sandbox: {name}", f"use {allowed}")
