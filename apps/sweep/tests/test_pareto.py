"""Fronts and volumes against loops over points and unit cells; the bootstrap against the variance it stands for."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.sweep.pareto import (
    HeldoutBits,
    hypervolume,
    interval,
    membership,
    on_front,
    reference_point,
    resampled_quality,
    signed,
)

SIDE = 5
"""Integer points lie in [0, SIDE) of each objective, so a volume is a number of unit cells."""


@st.composite
def point_sets(draw):
    objectives = draw(st.integers(1, 4))
    point = st.tuples(*[st.integers(0, SIDE - 1)] * objectives)
    return np.array(draw(st.lists(point, min_size=1, max_size=9)))


def dominates(one, other):
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def unit_cells(points, objectives):
    """The number of unit cells of the cube that some point dominates."""
    corners = itertools.product(range(SIDE), repeat=objectives)
    return sum(any(all(p <= c for p, c in zip(point, corner, strict=True)) for point in points) for corner in corners)


@given(point_sets())
def test_a_point_is_on_the_front_if_no_point_dominates_it(points):
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert on_front(points).tolist() == expected


@given(point_sets())
def test_the_hypervolume_counts_the_dominated_unit_cells(points):
    objectives = points.shape[1]
    assert hypervolume(points, [SIDE] * objectives) == unit_cells(points, objectives)


@given(point_sets(), st.randoms())
def test_neither_depends_on_the_order_of_points_or_objectives(points, random):
    rows, columns = list(range(len(points))), list(range(points.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = points[rows][:, columns]
    assert hypervolume(shuffled, [SIDE] * len(columns)) == hypervolume(points, [SIDE] * len(columns))
    assert on_front(shuffled).tolist() == on_front(points)[rows].tolist()


def test_points_beyond_the_reference_add_nothing():
    assert hypervolume([[1, 9], [9, 1]], [4, 4]) == 0.0
    assert hypervolume([[1, 9], [2, 2]], [4, 4]) == 4.0


def test_many_objectives_of_real_numbers_agree_with_a_random_estimate():
    random = np.random.default_rng(0)
    points, probes = random.random((12, 3)), random.random((200_000, 3))
    inside_PN = np.all(points[None] <= probes[:, None], axis=2)
    inside = np.mean(np.sum(inside_PN, axis=1) > 0)
    assert hypervolume(points, [1, 1, 1]) == pytest.approx(inside, abs=0.005)


@pytest.mark.parametrize("call", [lambda: on_front([[1, np.nan]]), lambda: hypervolume([[np.nan, 1]], [2, 2])])
def test_nan_is_refused(call):
    with pytest.raises(ValueError, match="NaN"):
        call()


def test_the_reference_lies_beyond_the_worst_cell_and_stays_finite_for_equal_values():
    assert reference_point([[1.0, 5.0], [3.0, 5.0]]).tolist() == [3.2, 6.0]


def cells_of(count, seeds, documents, random):
    return [
        HeldoutBits(tuple(range(seeds)), random.normal(100, 5, (seeds, documents)) + random.normal(0, 3, (seeds, 1)))
        for _ in range(count)
    ]


def test_replicates_have_the_mean_of_the_cells_and_the_variance_of_a_mean_over_seeds():
    random = np.random.default_rng(1)
    (cell,) = cells_of(1, 3, 400, random)
    bits_SD = np.repeat(cell.bits_SD.mean(1, keepdims=True), 400, axis=1)  # no variance over documents
    quality_RN = resampled_quality([HeldoutBits((0, 1, 2), bits_SD)], np.full(400, 50.0), replicates=20_000)
    means = bits_SD.mean(1) / 50
    assert quality_RN.mean() == pytest.approx(means.mean(), rel=1e-3)
    assert quality_RN.var() == pytest.approx(means.var(ddof=1) / 3, rel=0.03)


def test_replicates_have_the_variance_of_a_ratio_over_documents():
    random = np.random.default_rng(2)
    bytes_D = random.integers(20, 2000, 300).astype(float)
    bits_SD = (bytes_D * random.normal(1.5, 0.1, 300))[None]
    quality_R = resampled_quality([HeldoutBits((0,), bits_SD)], bytes_D, replicates=10_000)[:, 0]
    ratio = bits_SD.sum() / bytes_D.sum()
    residual_D = (bits_SD[0] - ratio * bytes_D) / bytes_D.mean()
    assert quality_R.std() == pytest.approx(residual_D.std(ddof=1) / 300**0.5, rel=0.05)  # delta method
    low, high = interval(quality_R)
    assert low < ratio < high


def test_cells_are_compared_on_the_same_documents():
    random = np.random.default_rng(3)
    bits_D = random.normal(100, 30, 200)
    cells = [HeldoutBits((0,), (bits_D + offset)[None]) for offset in (0.0, 0.1)]
    quality_RN = resampled_quality(cells, np.full(200, 50.0))
    assert (quality_RN[:, 0] < quality_RN[:, 1]).all()


def test_cells_with_the_same_seeds_share_their_draw_and_others_do_not():
    level_S, flat = np.array([[1.0], [2.0], [3.0]]), np.ones((3, 50))
    cells = [HeldoutBits(seeds, flat * level_S) for seeds in ((0, 1, 2), (0, 1, 2), (3, 4, 5))]
    one, same, other = resampled_quality(cells, np.ones(50)).T
    assert (one == same).all()
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.15


def test_the_same_seed_gives_the_same_replicates():
    cells = cells_of(3, 3, 40, np.random.default_rng(4))
    assert (resampled_quality(cells, np.ones(40)) == resampled_quality(cells, np.ones(40))).all()


def test_documents_of_another_text_are_refused():
    with pytest.raises(ValueError, match="2 documents"):
        resampled_quality([HeldoutBits((0,), np.ones((1, 3)))], [1, 1])


def test_membership_is_the_share_of_replicates_on_the_front():
    quality_RN = np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    expected = np.mean([on_front(np.column_stack([row, [10, 20, 20]])) for row in quality_RN], axis=0)
    assert membership(quality_RN, [[10], [20], [20]]).tolist() == expected.tolist() == [1.0, 0.25, 0.25]


def test_objectives_to_maximize_are_negated():
    assert signed({"speed": 5.0, "loss": 2.0}, {"loss": "minimize", "speed": "maximize"}) == [2.0, -5.0]
