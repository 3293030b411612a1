"""Clusters of near duplicates: the connected components of the candidates that a test finds near."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from penstock.data_prep.cleaning.runs import PLACE, Keys, Places, equal_keys

FAR_PAIRS = 2**17
"""Pairs found far that are remembered, at about 80 bytes each: a pair can be a candidate of several bands."""


class Clusters:
    """`count` documents, each a cluster of its own until it is joined. 4 bytes a document.

    `near` tests a pair of places; a pair that is in one cluster already is not tested. The clusters do not depend on
    the order of pairs. A cluster's root is its earliest document.
    """

    def __init__(self, count: int, near: Callable[[int, int], bool]) -> None:
        self._parents = np.arange(count, dtype=PLACE)
        self._near = near
        self._far: set[tuple[int, int]] = set()
        self.tested = 0

    def roots(self, places: Places) -> Places:
        """The root of each place."""
        found = self._parents[places]
        while not np.array_equal(above := self._parents[found], found):
            found = above
        self._parents[places] = found
        return found

    def add(self, keys: Keys, places: Places) -> None:
        """Joins what is near of documents with equal keys. `keys` are ascending, and all entries of a key are here."""
        starts, sizes = equal_keys(keys)
        if not len(starts):
            return
        grouped = places[np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())]
        starts = np.cumsum(sizes) - sizes
        # Every document against the first of its group: with that, most groups are done.
        is_other = np.ones(len(grouped), dtype=bool)
        is_other[starts] = False
        self._test(np.repeat(grouped[starts], sizes - 1), grouped[is_other])
        roots = self.roots(grouped)
        apart = np.minimum.reduceat(roots, starts) != np.maximum.reduceat(roots, starts)
        for start, size in zip(starts[apart & (sizes > 2)], sizes[apart & (sizes > 2)], strict=True):
            self._join_within(grouped[start : start + size])

    def members(self) -> Iterator[Places]:
        """The clusters of two documents or more: their places, ascending, by the first of them."""
        joined = np.flatnonzero(self._parents != np.arange(len(self._parents), dtype=PLACE)).astype(PLACE)
        roots = self.roots(joined)
        joined, roots = joined[order := np.argsort(roots, kind="stable")], roots[order]
        begins = np.flatnonzero(np.diff(roots, prepend=roots[:1] + PLACE.type(1)))
        for start, stop in pairwise([*begins.tolist(), len(roots)]):
            yield np.concatenate((roots[start : start + 1], joined[start:stop]))

    def _join_within(self, group: Places) -> None:
        """Tests every pair of the group that is not in one cluster. Documents of small clusters come first, so that
        two documents of the largest one are never compared."""
        _, cluster, sizes = np.unique(self.roots(group), return_inverse=True, return_counts=True)
        group = group[np.argsort(sizes[cluster], kind="stable")]
        for at in range(len(group) - 1):
            roots = self.roots(group[at:])
            others = group[at:][roots != roots[0]]
            if not len(others) and len(np.unique(roots)) == 1:
                return
            self._test(np.full(len(others), group[at]), others)

    def _test(self, left: Places, right: Places) -> None:
        """Joins the pairs that are near, each tested once, in the order of places so that texts are read in turn."""
        apart = self.roots(left) != self.roots(right)
        low, high = np.minimum(left, right)[apart], np.maximum(left, right)[apart]
        packed = np.unique((low.astype(np.uint64) << np.uint64(32)) | high)
        for pair in packed.tolist():
            one, other = pair >> 32, pair & 0xFFFFFFFF
            first, second = sorted((self._root(one), self._root(other)))
            if first == second or (one, other) in self._far:
                continue
            self.tested += 1
            if self._near(one, other):
                self._parents[second] = first
            else:
                if len(self._far) == FAR_PAIRS:
                    self._far.clear()
                self._far.add((one, other))

    def _root(self, place: int) -> int:
        while (above := int(self._parents[place])) != place:
            place = above
        return place
