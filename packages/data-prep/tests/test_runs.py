"""Laws of sorted runs: whatever the memory, they hold what one sort of everything gives."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.runs import (
    BYTES_TO_SORT,
    NO_KEY,
    Held,
    Stored,
    equal_keys,
    merge,
    sort_into_runs,
    write_run,
)
from penstock.hooks.problems import ProblemError

SHARDS = st.lists(st.integers(0, 12), max_size=4)


@settings(deadline=None, max_examples=25)
@given(SHARDS, st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_merged_runs_are_the_sort_of_all_entries(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], sort: int, block: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    shards = [draw.integers(0, 12, (length, 3), dtype=np.uint64) for length in lengths]
    runs = sort_into_runs(shards, tmp_path_factory.mktemp("runs"), sort * BYTES_TO_SORT)
    assert all(len(run) <= max(3, sort) for run in runs)
    blocks = list(merge(runs, block * BYTES_TO_SORT))
    expected = sorted(
        (int(key), place)
        for place, row in enumerate(row for shard in shards for row in shard)
        for key in row
        if key != NO_KEY
    )
    entries = [entry for keys, places in blocks for entry in zip(keys.tolist(), places.tolist(), strict=True)]
    assert sorted(entries) == expected
    assert [key for key, _ in entries] == [key for key, _ in expected]
    for (left, _), (right, _) in pairwise(blocks):
        assert left[-1] < right[0]


def test_what_fits_into_memory_is_not_written(tmp_path: Path) -> None:
    keys = np.arange(1, 21, dtype=np.uint64).reshape(10, 2)
    (run,) = sort_into_runs([keys[:5], keys[5:]], tmp_path, 20 * BYTES_TO_SORT)
    assert isinstance(run, Held)
    assert not list(tmp_path.iterdir())
    assert len(sort_into_runs([keys], tmp_path, 19 * BYTES_TO_SORT)) == 2


def test_ranges_are_those_of_a_search_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.data_prep.cleaning.runs.BLOCK", 16)
    draw = np.random.default_rng(2)
    keys = np.sort(draw.integers(0, 50, 200, dtype=np.uint64))
    places = np.arange(200, dtype=np.uint32)
    run = write_run(tmp_path / "run", [(keys[:70], places[:70]), (keys[70:], places[70:])])
    for wanted in (np.array([0, 7, 30, 49, 999], dtype=np.uint64), np.arange(60, dtype=np.uint64)):
        starts, stops = run.ranges(wanted)
        assert starts.tolist() == np.searchsorted(keys, wanted, "left").tolist()
        assert stops.tolist() == np.searchsorted(keys, wanted, "right").tolist()
    assert run.places(70, 73).tolist() == [70, 71, 72]
    assert write_run(tmp_path / "empty", []).ranges(keys)[1].tolist() == [0] * 200


def test_a_shortened_file_is_refused(tmp_path: Path) -> None:
    keys = np.arange(10, dtype=np.uint64)
    run = write_run(tmp_path / "run", [(keys, keys.astype(np.uint32))])
    run.check()
    (tmp_path / "run.keys").write_bytes(b"12345678" * 9)
    with pytest.raises(ProblemError, match=r"run\.keys.*72 bytes, not 80"):
        run.check()
    with pytest.raises(ProblemError, match="shorter"):
        list(merge([run], 10**6))
    with pytest.raises(ProblemError, match="0 bytes, not 80"):
        Stored(tmp_path / "missing", 10).check()


def test_groups_of_equal_keys() -> None:
    starts, sizes = equal_keys(np.array([1, 2, 2, 3, 4, 4, 4], dtype=np.uint64))
    assert (starts.tolist(), sizes.tolist()) == ([1, 4], [2, 3])
    assert len(equal_keys(np.empty(0, np.uint64))[0]) == 0
