"""The quality of cells at equal FLOPs of training, where all were trained on equal tokens.

A cell that computes more per token sees fewer tokens for the same FLOPs. Two ways lead to its quality there:

- `scaled`, where some cells were trained to the end twice, on few and on many tokens: bits per byte fall by a slope for
  each unit of log(tokens), measured on those cells, and each cell moves along it from its own end. Both ends have
  a learning rate that has fallen, as a run of just these tokens would have.
- `interpolated`, otherwise: the curve of the cell between its rungs, in log(tokens). The learning rate has not fallen
  there yet, so this is unfair to cells that compute more, and the report says so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Curve = Sequence[tuple[int, float]]
"""Tokens and bits per byte of a cell's rungs; the last is the end of its training."""


@dataclass(frozen=True, slots=True)
class AtFlops:
    """A cell at the common FLOPs: the tokens it could see, and its bits per byte, None if no rung lies before them."""

    tokens: float
    bits_per_byte: float | None


def slope_of(ends: Sequence[tuple[tuple[int, float], tuple[int, float]]]) -> float | None:
    """Bits per byte gained for each unit of log(tokens), the mean over cells with two ends; None without any.

    >>> round(slope_of([((100, 2.0), (1000, 1.0))]), 4)
    0.4343
    """
    slopes = [(few - many) / math.log(more / less) for (less, few), (more, many) in ends if more > less]
    return statistics.fmean(slopes) if slopes else None


def at_equal_flops(
    curves: Mapping[str, Curve], flops_per_token: Mapping[str, int], slope: float | None
) -> dict[str, AtFlops]:
    """Every cell at the FLOPs that the cheapest cell spent, with `slope` scaled, else interpolated.

    >>> found = at_equal_flops({"a": [(100, 2.0)], "b": [(50, 2.2), (100, 1.9)]}, {"a": 1, "b": 2}, None)
    >>> found["a"].bits_per_byte, found["b"].tokens, found["b"].bits_per_byte
    (2.0, 50.0, 2.2)
    """
    budget = min(curve[-1][0] * flops_per_token[cell] for cell, curve in curves.items())
    found: dict[str, AtFlops] = {}
    for cell, curve in curves.items():
        tokens, (end, last) = budget / flops_per_token[cell], curve[-1]
        scaled = None if slope is None else last + slope * math.log(end / tokens)
        found[cell] = AtFlops(tokens, _interpolated(curve, tokens) if scaled is None else scaled)
    return found


def _interpolated(curve: Curve, tokens: float) -> float | None:
    if tokens < curve[0][0]:
        return None
    at, bits = zip(*curve, strict=True)
    return float(np.interp(math.log(tokens), np.log(at), bits))
