"""Pareto fronts: which cells no other cell beats, how sure that is, and how much a set of cells covers.

Every objective is minimised here; a caller negates what it wants large. Shape suffixes: N cells, M objectives,
R replicates, S seeds, D documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]

REPLICATES = 1000
"""Bootstrap replicates: a membership of 0.5 is then known to 0.03 (95 %)."""
MARGIN = 0.1
"""Distance of the reference point from the worst cell, as a share of the range of an objective. At 0 the two ends of a
front would cover nothing, so losing one would cost nothing."""


@dataclass(frozen=True, slots=True)
class HeldoutBits:
    """One cell's results on the held-out documents: bits of each document for each seed, `bits_SD`."""

    seeds: tuple[int, ...]
    bits_SD: Values


def on_front(points_NM: ArrayLike) -> NDArray[np.bool_]:
    """True for each point that no other point dominates. A point dominates another if it is at most as large in every
    objective and smaller in one, so equal points are on the front together. Raises `ValueError` for NaN.

    >>> on_front([[1, 3], [2, 2], [3, 3], [2, 2]]).tolist()
    [True, True, False, True]
    """
    points = _points(points_NM)
    no_larger_NN = (points[:, None] <= points[None]).all(axis=2)
    smaller_NN = (points[:, None] < points[None]).any(axis=2)
    return np.logical_not((no_larger_NN & smaller_NN).any(axis=0))


def hypervolume(points_NM: ArrayLike, reference_M: ArrayLike) -> float:
    """The volume between the points and the reference point: of everything that some point dominates and that
    dominates the reference. Points beyond the reference in an objective add nothing. Exact, by slices along the last
    objective (HSO: While et al., IEEE TEC 10(1), 2006). Raises `ValueError` for NaN.

    >>> hypervolume([[1, 3], [2, 2], [3, 1]], [4, 4])
    6.0
    """
    points, reference = _points(points_NM), np.asarray(reference_M, dtype=np.float64)
    if reference.shape != points.shape[1:]:
        raise ValueError(f"a reference of shape {reference.shape} for points of {points.shape[1]} objectives")
    inside = points[(points < reference).all(axis=1)]
    return _volume(inside[on_front(inside)], reference) if len(inside) else 0.0


def _volume(front_NM: Values, reference_M: Values) -> float:
    order = np.argsort(front_NM[:, -1], kind="stable")
    points, depth = front_NM[order, :-1], np.append(front_NM[order, -1], reference_M[-1])
    if points.shape[1] == 0:
        return float(depth[-1] - depth[0])
    if points.shape[1] == 1:  # each step down of the lowest value so far starts a wider slice
        lowest = np.minimum.accumulate(points[:, 0])
        return float(((reference_M[0] - lowest) * np.diff(depth)).sum())
    total = 0.0
    for count, thickness in enumerate(np.diff(depth), 1):
        if thickness > 0:
            slice_NM = points[:count]
            total += float(thickness) * _volume(slice_NM[on_front(slice_NM)], reference_M[:-1])
    return total


def reference_point(points_NM: ArrayLike) -> Values:
    """The worst value of each objective, and a `MARGIN` of its range more. An objective whose values are equal gets a
    margin of 1, so that the others still count.

    >>> reference_point([[1.0, 5.0], [3.0, 5.0]]).tolist()
    [3.2, 6.0]
    """
    points = _points(points_NM)
    span = np.ptp(points, axis=0)
    return points.max(axis=0) + np.where(span > 0, MARGIN * span, 1.0)


def resampled_quality(
    cells: Sequence[HeldoutBits], bytes_D: ArrayLike, *, replicates: int = REPLICATES, seed: int = 0
) -> Values:
    """Bits per byte of every cell [R, N] on resampled documents and seeds.

    All cells see the same draw of documents, and cells with the same seeds the same draw of seeds, because cells are
    compared on the same text and from the same seeds. The spread over seeds is widened by sqrt(S / (S - 1)): the plain
    bootstrap of a mean of S values has (S - 1) / S of its variance, two thirds for three seeds. One seed is not
    resampled, so the result then says nothing about seeds.
    """
    random = np.random.default_rng(seed)
    bytes_of = np.asarray(bytes_D, dtype=np.float64)
    for cell in cells:
        if cell.bits_SD.shape != (len(cell.seeds), len(bytes_of)):
            raise ValueError(
                f"bits of shape {cell.bits_SD.shape} for {len(cell.seeds)} seeds, {len(bytes_of)} documents"
            )
    weight_RD = random.multinomial(len(bytes_of), np.full(len(bytes_of), 1 / len(bytes_of)), size=replicates)
    size_R = weight_RD @ bytes_of
    drawn: dict[tuple[int, ...], Values] = {}
    for seeds in sorted({cell.seeds for cell in cells}):
        drawn[seeds] = _seed_weights(random, len(seeds), replicates)
    return np.stack([((weight_RD @ cell.bits_SD.T) * drawn[cell.seeds]).sum(1) / size_R for cell in cells], axis=1)


def _seed_weights(random: np.random.Generator, seeds: int, replicates: int) -> Values:
    """Weights [R, S] of the seeds in a mean, which sum to 1."""
    even = np.full((replicates, seeds), 1 / seeds)
    if seeds == 1:
        return even
    plain = random.multinomial(seeds, even[0], size=replicates) / seeds
    return even + (plain - even) * math.sqrt(seeds / (seeds - 1))


def membership(quality_RN: Values, costs_NM: ArrayLike) -> Values:
    """The share of replicates in which each cell is on the front of quality against the costs, which are certain.

    >>> membership(np.array([[1.0, 2.0], [2.0, 1.0]]), [[10], [20]]).tolist()
    [1.0, 0.5]
    """
    costs = _points(costs_NM)
    fronts = [on_front(np.column_stack([quality_N, costs])) for quality_N in quality_RN]
    return np.mean(fronts, axis=0)


def interval(values_R: Values, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of replicates."""
    low, high = np.quantile(values_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def signed(values: Mapping[str, float], directions: Mapping[str, str]) -> list[float]:
    """One cell's objectives as numbers to minimise, in the order of `directions` ("minimize" or "maximize")."""
    return [-values[name] if direction == "maximize" else values[name] for name, direction in directions.items()]


def _points(points_NM: ArrayLike) -> Values:
    points = np.asarray(points_NM, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"points of shape {points.shape}, not [points, objectives]")
    if np.isnan(points).any():
        raise ValueError("an objective is NaN")
    return points
