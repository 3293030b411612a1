"""Names and units of a sweep's figures, as a reader expects them."""

from __future__ import annotations

from penstock.pages.formats import count, digits_for, duration, number, percent, size
from penstock.run.records.sweep import CellFigures
from penstock.sweep.objectives import objective_of

NAMES = {
    "bits_per_byte": "bits per byte",
    "parameters": "parameters",
    "active_parameters": "active parameters",
    "embedding_share": "embedding share",
    "flops_per_token": "training FLOPs per token",
    "latency_128": "latency of 128 tokens",
    "latency_512": "latency of 512 tokens",
    "tokens_per_second": "tokens per second",
    "peak_memory": "peak memory",
    "max_violation": "MaxVio",
    "lr": "learning rate",
}
PHASES = {
    "short": "short phase",
    "common": "short phase at the common rate",
    "all": "whole training",
    "final": "final phase",
}


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "cell"), counted(2, "cell")
    ('1 cell', '2 cells')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def label(figure: str) -> str:
    """
    >>> label("bytes.ternary"), label("flops_per_token")
    ('bytes in ternary', 'training FLOPs per token')
    """
    kind, _, rest = figure.partition(".")
    return f"bytes in {rest}" if kind == "bytes" else rest if kind == "tasks" else NAMES[figure]


def shown(figure: str, value: float | None) -> str:
    """A figure with its unit.

    >>> shown("latency_128", 0.0123), shown("parameters", 10_004_480), shown("bits_per_byte", 1.23456)
    ('12.3\\xa0ms', '10.0\\xa0M', '1.235')
    """
    if value is None:
        return number(None)
    kind = figure.partition(".")[0]
    if kind == "bits_per_byte":
        return f"{value:.3f}"
    if kind in ("bytes", "peak_memory"):
        return size(value)
    if kind.startswith("latency"):
        return duration(value)
    if kind == "embedding_share":
        return percent(value)
    if kind in ("parameters", "active_parameters", "flops_per_token", "tokens_per_second"):
        return count(value)
    return number(value)


def figure_of(cell: CellFigures, figure: str) -> str:
    return shown(figure, objective_of(cell, figure))


def interval(value: float, low: float | None, high: float | None) -> str:
    """A figure with its interval, with the digits that it deserves.

    >>> interval(1.23456, 1.2211, 1.2481), interval(1.23456, None, None)
    ('1.235 (1.221 to 1.248)', '1.235')
    """
    if low is None or high is None:
        return f"{value:.3f}"
    digits = digits_for((high - low) / 2)
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
