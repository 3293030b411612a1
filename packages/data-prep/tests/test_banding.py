"""Laws of bandings, against signatures that agree by chance, and against the choice by trying everything."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.data_prep.cleaning.banding import Banding, choose_banding
from penstock.hooks.problems import ProblemError


@pytest.mark.parametrize("jaccard", [0.5, 0.8, 0.9])
def test_pairs_share_a_key_as_often_as_the_probability_says(jaccard: float) -> None:
    banding, draw, pairs = Banding(14, 8), np.random.default_rng(0), 20_000
    left = draw.integers(0, 2**32, (pairs, 128), dtype=np.uint32)
    right = np.where(draw.random(left.shape) < jaccard, left, draw.integers(0, 2**32, left.shape, dtype=np.uint32))
    found = (banding.keys(left) == banding.keys(right)).any(axis=1).mean()
    assert abs(found - banding.probability(jaccard)) < 4 * 0.5 / np.sqrt(pairs)


def test_a_key_is_equal_exactly_where_all_rows_of_its_band_are() -> None:
    banding, draw = Banding(5, 3), np.random.default_rng(1)
    signatures = draw.integers(0, 3, (400, 16), dtype=np.uint32)
    keys = banding.keys(signatures)
    assert (keys.shape, keys.dtype) == ((400, 5), np.dtype(np.uint64))
    bands = {(band, *row) for band in range(5) for row in signatures[:, 3 * band : 3 * band + 3].tolist()}
    assert len(bands) == len(np.unique(keys)) > 5 * 20


def splitmix64(number: int) -> int:
    """Output `number`, from 1, of the generator that starts at 0."""
    state = number * 0x9E3779B97F4A7C15 % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_keys_are_sums_of_products_modulo_2_to_the_64() -> None:
    assert splitmix64(1) == 0xE220A8397B1DCDAF  # as published
    constants = [splitmix64(number) | 1 for number in range(1, 4 + 2 + 1)]
    signature = [1, 2**32 - 1, 3, 5]
    expected = [
        (signature[0] * constants[0] + signature[1] * constants[1] + constants[4]) % 2**64,
        (signature[2] * constants[2] + signature[3] * constants[3] + constants[5]) % 2**64,
    ]
    assert Banding(2, 2).keys(np.array([signature], dtype=np.uint32)).tolist() == [expected]


def test_64_bit_values_are_not_cut() -> None:
    signatures = np.array([[1, 2], [1 + 2**32, 2]], dtype=np.uint64)
    assert len(np.unique(Banding(1, 2).keys(signatures))) == 2


@pytest.mark.parametrize(("permutations", "threshold"), [(16, 0.6), (30, 0.8), (64, 0.9), (128, 0.8)])
def test_no_other_banding_finds_as_much_with_fewer_candidates(permutations: int, threshold: float) -> None:
    chosen = choose_banding(permutations, threshold, recall=0.9)
    assert chosen.values <= permutations
    assert chosen.probability(threshold) >= 0.9
    for rows in range(1, permutations + 1):
        for bands in range(1, permutations // rows + 1):
            other = Banding(bands, rows)
            if other.probability(threshold) >= 0.9:
                assert other.mean_probability(0, threshold) >= chosen.mean_probability(0, threshold)


def test_probability_rises_and_the_curve_holds_it() -> None:
    curve = Banding(14, 8).curve(11)
    assert curve == sorted(curve)
    assert (curve[0], curve[-1]) == ((0, 0), (1, 1))
    assert curve[8][1] == pytest.approx(1 - (1 - 0.8**8) ** 14)


def test_too_few_permutations_are_refused_with_what_they_reach() -> None:
    with pytest.raises(ProblemError, match=r"2 permutations find a pair of similarity 0\.5 .* 0\.75, not 0\.92"):
        choose_banding(2, 0.5)
