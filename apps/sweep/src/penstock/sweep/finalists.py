"""Which cells of the short phase are trained to the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.hooks.contracts.stopping import Standing
from penstock.sweep.pareto import Values, hypervolume, reference_point


def finalists(standings: Sequence[Standing], count: int) -> list[str]:
    """The names of the cells that go on, at most `count`; equal ones in the order of their names.

    With quality as the only objective they are the best in bits per byte, the best first. With costs beside it they are
    to cover the Pareto front: the best cell in quality, and then the one that adds most to the hypervolume of those
    before it, whose reference point is `reference_point` of all given cells. Only when nothing adds to it, those that
    are left follow by quality.
    """
    ranked = sorted(standings, key=lambda standing: (standing.bits_per_byte, standing.cell))
    if not ranked or not ranked[0].costs:
        return [standing.cell for standing in ranked[:count]]
    points_NM = np.array([[standing.bits_per_byte, *standing.costs] for standing in ranked])
    return [ranked[index].cell for index in covering(points_NM, count)]


def covering(points_NM: Values, count: int) -> list[int]:
    """Indices of at most `count` points, the first given one and then the greedy choice by hypervolume, which reaches
    1 - 1/e of the best choice of as many (Nemhauser et al., Mathematical Programming 14, 1978)."""
    reference, left, chosen = reference_point(points_NM), list(range(1, len(points_NM))), [0]
    while left and len(chosen) < count:
        volumes = [hypervolume(points_NM[[*chosen, index]], reference) for index in left]
        chosen.append(left.pop(int(np.argmax(volumes))))
    return chosen
