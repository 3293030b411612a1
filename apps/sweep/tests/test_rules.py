"""Stop rules: what they stop on results that were written down, and how often they are wrong on drawn ones."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.hooks.contracts.stopping import Standing
from penstock.sweep.finalists import finalists
from penstock.sweep.pareto import hypervolume, reference_point
from penstock.sweep.rules.halving import Asha, Halving
from penstock.sweep.rules.order import ranked
from penstock.sweep.rules.paired import Paired, difference
from penstock.sweep.rules.perplexity import Perplexity

BYTE_P = np.random.default_rng(0).integers(500, 3000, 60)


def standing(cell: str, rate: float, tokens: int = 1000, spread=0.0, seed: Any = 0, document: Any = 0.0, **others):
    """`spread` is the standard deviation of the rate of a document, `document` what all cells have on it."""
    rate_P = rate + document + spread * np.random.default_rng(seed).standard_normal(len(BYTE_P))
    bits_P = rate_P * BYTE_P
    mean = float(bits_P.sum() / BYTE_P.sum())
    return Standing(cell, tokens, mean, 2 ** (3.5 * mean), bits_P, BYTE_P, "one", **others)


def test_a_difference_has_the_error_of_resampled_documents():
    one, other = standing("a", 2.1, spread=0.2, seed=1), standing("b", 2.0, spread=0.2, seed=2)
    found, generator = difference(one, other), np.random.default_rng(3)
    draws = generator.integers(0, len(BYTE_P), (4000, len(BYTE_P)))
    bits_P = one.document_bits - other.document_bits
    means = bits_P[draws].sum(axis=1) / BYTE_P[draws].sum(axis=1)
    assert found.mean == pytest.approx(one.bits_per_byte - other.bits_per_byte)
    assert found.error == pytest.approx(means.std(), rel=0.05)


def test_pairs_see_a_difference_that_is_small_beside_that_of_documents():
    document = np.random.default_rng(4).normal(0.0, 1.0, len(BYTE_P))
    near = [standing(cell, rate, spread=0.02, seed=seed, document=document)
            for seed, (cell, rate) in enumerate((("best", 2.0), ("worse", 2.05)))]  # fmt: skip
    assert list(Paired(seed_noise=0.0, keep=1.0).stopped(0, near)) == ["worse"]
    alone = np.std(near[0].document_bits / BYTE_P) / np.sqrt(len(BYTE_P))
    assert alone > 0.1  # unpaired, the interval would be several times the difference


@pytest.mark.parametrize(("seed_noise", "catch_up"), [(0.05, 0.0), (0.0, 0.06)])
def test_noise_of_seeds_and_time_to_catch_up_keep_a_cell(seed_noise, catch_up):
    near = [standing(cell, rate, spread=0.01, seed=seed, whole=4000)
            for seed, (cell, rate) in enumerate((("best", 2.0), ("worse", 2.1)))]  # fmt: skip
    assert Paired(seed_noise=0.0, catch_up=0.0, keep=1.0).stopped(0, near)
    assert not Paired(seed_noise=seed_noise, catch_up=catch_up, keep=1.0).stopped(0, near)


def test_a_share_of_the_cells_goes_on_at_most():
    close = [standing(f"{number}", 2.0 + number / 1000) for number in range(10)]
    assert Paired(keep=1.0).stopped(0, close) == {}
    assert sorted(Paired(keep=0.65, fewest=1).stopped(0, close)) == ["7", "8", "9"]
    assert sorted(Paired(keep=0.1, fewest=8).stopped(0, close)) == ["8", "9"]
    assert (
        Paired(keep=0.65, fewest=1).stopped(0, close)["9"] == "2.0090 bits per byte, not among the 7 of 10 that go on"
    )


def test_equal_cells_stop_in_one_sweep_of_twenty_at_most():
    """Ten cells that differ by chance alone, in documents and seeds, looked at three times."""
    rule, wrong, generator = Paired(confidence=0.95, seed_noise=0.02, keep=1.0), 0, np.random.default_rng(5)
    for sweep in range(300):
        living = {f"{cell}" for cell in range(10)}
        for rung in range(3):
            now = [
                standing(cell, 2.0 + generator.normal(0.0, 0.02), spread=0.05, seed=[sweep, rung, int(cell)])
                for cell in sorted(living)
            ]
            living -= set(rule.stopped(rung, now))
        wrong += len(living) < 10
    assert wrong / 300 <= 0.05 + 0.03  # and three standard errors of the share


def test_a_cell_on_the_front_goes_on_though_a_larger_one_is_better():
    cells = [
        standing("large", 1.8, costs=(300.0,)),
        standing("small", 2.2, costs=(100.0,)),
        standing("poor", 2.5, costs=(200.0,)),
    ]
    for rule in (Paired(seed_noise=0.0, keep=1.0), Perplexity(tokens=1)):
        later = [replace(each, tokens=2000, history=(each,)) for each in cells]
        assert list(rule.stopped(1, later)) == ["poor"]
    assert [each.cell for each in ranked(cells)] == ["large", "small", "poor"]
    assert list(Halving().stopped(0, cells)) == ["poor"]


def test_the_missions_rule_waits_for_its_tokens():
    def at(tokens, behind, history=()):
        return Standing("x", tokens, 2.0, 20.0 + behind, np.ones(1), np.ones(1), "one", history)

    def stopped(*behind):
        best, cell = tuple[Standing, ...](), tuple[Standing, ...]()
        for number, each in enumerate(behind, 1):
            best = (*best, replace(at(600_000 * number, 0.0, best), cell="best"))
            cell = (*cell, at(600_000 * number, each, cell))
        return list(Perplexity().stopped(len(behind) - 1, [best[-1], cell[-1]]))

    assert stopped(0.6) == []
    assert stopped(0.6, 0.6) == []
    assert stopped(0.6, 0.5, 0.7) == ["x"]
    assert stopped(0.6, 0.4, 0.7) == []
    assert stopped(0.6, 0.6, 0.4) == []


def test_halving_keeps_a_share_and_asha_waits_for_its_tokens():
    cells = [standing(f"{number}", 2.0 + number / 10) for number in range(7)]
    random.Random(1).shuffle(cells)
    assert sorted(Halving().stopped(0, cells)) == ["4", "5", "6"]
    assert sorted(Halving(reduction=3).stopped(0, cells)) == ["3", "4", "5", "6"]
    assert sorted(Asha(reduction=3, first=1000).stopped(0, cells)) == ["2", "3", "4", "5", "6"]
    assert Asha(reduction=3, first=1001).stopped(0, cells) == {}
    later = [replace(each, tokens=2900, history=(each,)) for each in cells]
    assert Asha(reduction=3, first=1000).stopped(1, later) == {}
    assert len(Asha(reduction=3, first=1000).stopped(1, [replace(each, tokens=3000) for each in later])) == 5


def test_finalists_cover_the_front():
    cells = [
        standing("large", 1.80, costs=(300.0,)),
        standing("twin", 1.81, costs=(299.0,)),
        standing("middle", 1.95, costs=(200.0,)),
        standing("small", 2.20, costs=(100.0,)),
        standing("poor", 2.50, costs=(200.0,)),
    ]
    assert finalists(cells, 3) == ["large", "middle", "small"] or finalists(cells, 3) == ["large", "small", "middle"]
    assert finalists([replace(each, costs=()) for each in cells], 2) == ["large", "twin"]
    points = np.array([[each.bits_per_byte, *each.costs] for each in cells])
    whole = hypervolume(points, reference_point(points))
    kept = np.array([[each.bits_per_byte, *each.costs] for each in cells if each.cell in finalists(cells, 3)])
    assert hypervolume(kept, reference_point(points)) > 0.95 * whole
    assert finalists(cells, 4)[:2] == ["large", "twin"]  # a third goes by quality alone
    assert finalists(cells[::-1], 4) == finalists(cells, 4)
    assert len(finalists(cells, 9)) == 5
