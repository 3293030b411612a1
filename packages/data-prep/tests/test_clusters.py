"""Laws of clusters, against a breadth-first search over all pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.clusters import Clusters
from penstock.data_prep.cleaning.runs import entries_of


def components(count: int, edges: set[tuple[int, int]]) -> list[list[int]]:
    """Of two documents or more, by the first of them."""
    beside: dict[int, set[int]] = {place: set() for place in range(count)}
    for one, other in edges:
        beside[one].add(other)
        beside[other].add(one)
    found, seen = list[list[int]](), set[int]()
    for place in range(count):
        reached, front = set[int](), {place} - seen
        while front:
            reached |= front
            front = {other for each in front for other in beside[each]} - reached
        seen |= reached
        if len(reached) > 1:
            found.append(sorted(reached))
    return found


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 25), st.integers(1, 3), st.integers(1, 12), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_clusters_are_the_components_of_near_candidates(
    count: int, bands: int, values: int, share: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    keys_NB = draw.integers(1, 1 + values, (count, bands), dtype=np.uint64) + np.arange(bands, dtype=np.uint64) * 100
    is_near = np.triu(draw.random((count, count)) < share, 1)
    tested: list[tuple[int, int]] = []

    def near(one: int, other: int) -> bool:
        assert one < other
        tested.append((one, other))
        return bool(is_near[one, other])

    clusters = Clusters(count, near)
    keys, places = entries_of(keys_NB, 0)
    cut = int(np.searchsorted(keys, keys[len(keys) // 2]))  # all entries of a key come together
    clusters.add(keys[:cut], places[:cut])
    clusters.add(keys[cut:], places[cut:])

    candidates = {
        (one, other)
        for one in range(count)
        for other in range(one + 1, count)
        if (keys_NB[one] == keys_NB[other]).any()
    }
    near_pairs = {pair for pair in candidates if is_near[pair]}
    assert [members.tolist() for members in clusters.members()] == components(count, near_pairs)
    assert set(tested) <= candidates
    assert len(set(tested)) == len(tested) == clusters.tested


def test_copies_of_one_document_are_tested_once_each() -> None:
    clusters = Clusters(5000, lambda one, other: True)
    keys_NB = np.tile(np.arange(1, 15, dtype=np.uint64), (5000, 1))
    clusters.add(*entries_of(keys_NB, 0))
    assert clusters.tested == 4999
    assert [len(members) for members in clusters.members()] == [5000]
