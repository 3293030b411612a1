"""Draws expert load as a PNG in which even load is transparent, so it suits the light and the dark scheme.

Shape suffixes: E experts, C columns (bins of steps).
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from matplotlib.image import imsave

from penstock.pages.drawing import Column

SORTED_ABOVE = 32
"""Most experts whose lines in a heat map can still be distinguished at 150 pixels."""
LEVELS = 33
"""Shades in a heat map: fewer colours compress better, and the eye cannot distinguish 33."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A picture of load over time: experts downwards, time to the right; `first` and `last` name the outer lines."""

    layer: int
    experts: int
    first: str
    last: str
    image: str


def heat_limit(ratio: Column) -> float:
    """The load ratio at which colour saturates: the smallest round one that covers 98 % of the loaded cells."""
    loaded = ratio[np.isfinite(ratio) & (ratio > 0)]
    reach = float(np.quantile(np.abs(np.log2(loaded)), 0.98)) if loaded.size else 0.0
    return next((limit for limit in (1.25, 1.5, 2.0, 4.0) if reach <= math.log2(limit)), 8.0)


def heat_map(layer: int, ratio_EC: Column, limit: float) -> HeatMap:
    """One layer over time. More than `SORTED_ABOVE` experts are sorted by load, or they would look like noise."""
    experts = len(ratio_EC)
    if experts <= SORTED_ABOVE:
        return HeatMap(layer, experts, "0", str(experts - 1), heat_image(ratio_EC, limit, rows=240, columns=480))
    order = np.argsort(-np.nan_to_num(ratio_EC).mean(axis=1), kind="stable")
    return HeatMap(layer, experts, "most", "least", heat_image(ratio_EC[order], limit, rows=240, columns=480))


def heat_image(ratio: Column, limit: float, rows: int, columns: int) -> str:
    """A PNG data URI of load ratios [rows, columns]: orange above the mean, blue below, transparent at it.

    Opacity grows with |log2 ratio| up to `limit`. Cells are repeated until the picture has about the size it is shown
    at, so that a browser's smoothing does not blur them.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = np.clip(np.log2(ratio) / math.log2(limit), -1, 1)
    strength = np.nan_to_num(strength, nan=0.0)
    shade = np.round(np.abs(strength) * (LEVELS - 1)) / (LEVELS - 1)
    rgba = np.empty((*ratio.shape, 4), dtype=np.float64)
    rgba[..., :3] = np.where(strength[..., None] > 0, (0.88, 0.38, 0.13), (0.08, 0.47, 0.72))
    rgba[..., 3] = shade**0.8
    repeats = [max(1, round(wanted / max(1, have))) for wanted, have in zip((rows, columns), ratio.shape, strict=True)]
    buffer = io.BytesIO()
    imsave(buffer, rgba.repeat(repeats[0], axis=0).repeat(repeats[1], axis=1), format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
