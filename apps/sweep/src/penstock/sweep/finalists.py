"""Which cells go on if only some can."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from penstock.hooks.contracts.stopping import Standing
from penstock.sweep.pareto import Values, hypervolume, on_front, reference_point


def finalists(standings: Sequence[Standing], count: int) -> list[str]:
    """The names of the cells that go on, at most `count`; equal ones in the order of their names.

    With quality as the only objective they are the best in bits per byte, the best first. With costs beside it these
    are a third, rounded up, because early results leave open which cell is best; of the others, the ones go on that
    cover the Pareto front: see `covering`.
    """
    ranked = sorted(standings, key=lambda standing: (standing.bits_per_byte, standing.cell))
    if not ranked or not ranked[0].costs:
        return [standing.cell for standing in ranked[:count]]
    points_NM = np.array([[standing.bits_per_byte, *standing.costs] for standing in ranked])
    return [ranked[index].cell for index in covering(points_NM, count, best=math.ceil(count / 3))]


def covering(points_NM: Values, count: int, *, best: int = 1) -> list[int]:
    """Indices of at most `count` points, which are in the order of the first objective: the `best` first ones, and then
    each that adds most hypervolume to those behind these, up to the `reference_point` of all. Where the front has fewer
    points, those of the front without them follow, because a result may have hidden that they belong to it.

    The greedy choice has 1 - 1/e of the volume of the best one (Nemhauser et al., Mathematical Programming 14, 1978).
    """
    reference, chosen = reference_point(points_NM), list(range(min(best, count, len(points_NM))))
    left = np.arange(len(chosen), len(points_NM))
    while len(left) and len(chosen) < count:
        front = left[on_front(points_NM[left])]
        left = np.setdiff1d(left, front)
        waiting, own = front.tolist(), list[int]()
        while waiting and len(chosen) + len(own) < count:
            volumes = [hypervolume(points_NM[[*own, index]], reference) for index in waiting]
            own.append(waiting.pop(int(np.argmax(volumes))))
        chosen += own
    return chosen
