"""Two ranks that have some rows of each parameter step them to every bit of one process. One pair of ranks serves all
tests."""

from __future__ import annotations

import json
from typing import Any

import cut_over_ranks
import pytest

from penstock.conformance.ranks import told_by_ranks
from penstock.hooks import Registry

CHOICE: Any = Registry.discover().choose("optimizer", "muon")


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return [json.loads(each) for each in told_by_ranks(cut_over_ranks.found, CHOICE, 2)]


@pytest.mark.parametrize("case", cut_over_ranks.CASES)
def test_rows_are_stepped_to_every_bit_of_whole_parameters(found, case):
    assert [each["other bits"][case] for each in found] == [[], []]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_rows_in_bf16_are_stepped_to_the_same_bits(found, optimizer):
    assert [each["bf16 parameters"][optimizer] for each in found] == [[], []]


def test_a_fused_tensor_is_cut_into_its_matrices_where_it_is_whole(found):
    assert [each["layouts"] for each in found] == [[], []]


def test_the_size_of_a_bucket_changes_no_bit(found):
    assert [each["small buckets"] for each in found] == [[], []]


def test_shards_of_fully_shard_are_stepped_where_they_lie(found):
    assert [each["fully_shard"] for each in found] == [[], []]


def test_what_has_no_gradient_on_any_rank_stays_and_gets_no_state(found):
    assert [each["without gradient"] for each in found] == [[], []]


def test_both_ranks_together_iterate_each_matrix_once(found):
    here = [each["iterated"]["here"] for each in found]
    assert sum(here) == found[0]["iterated"]["alone"] == 3 * (1 + 3 + (4 + 3 + 1 + 6))
    assert min(here) > 0.3 * sum(here)


def test_state_goes_through_a_distributed_checkpoint(found):
    assert [each["saved"] for each in found] == [[], []]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_columns_over_ranks_are_refused(found, optimizer):
    for each in found:
        assert "parameter 'query' has the placements (Shard(dim=1),)" in each["refused"][optimizer]
