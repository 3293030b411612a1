"""Laws of the order: a bijection an epoch, any step at once, the same batch however it is divided."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.order import TokenOrder, keys, permute
from penstock.hooks.problems import ProblemError

MASK = 2**64 - 1


class Counting:
    """A split whose token at position i is i, so a batch shows where it was read."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def slice(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start <= stop <= self.tokens
        return np.arange(start, stop, dtype=np.int64)


def make(windows: int, *, batch_size: int = 4, seed: int = 0, length: int = 3) -> TokenOrder:
    return TokenOrder(Counting(windows * length + 1), sequence_length=length, batch_size=batch_size, seed=seed)


# ---------------------------------------------------------------------------------------------- permutation


def scalar_mix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def scalar_permute(position: int, size: int, seed: int, epoch: int) -> int:
    """The Feistel network with cycle walking in plain integers."""
    golden = 0x9E3779B97F4A7C15
    key = scalar_mix((scalar_mix(seed & MASK) + epoch * golden) & MASK)
    half = next(half for half in range(1, 40) if 4**half >= size)
    while True:
        left, right = position >> half, position % 2**half
        for number in range(8):
            mixed = scalar_mix((scalar_mix((key + (number + 1) * golden) & MASK) + right) & MASK)
            left, right = right, left ^ mixed % 2**half
        position = left << half | right
        if position < size:
            return position


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 700), seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 2**40))
def test_permutation_is_a_bijection_of_every_epoch(size: int, seed: int, epoch: int) -> None:
    out = permute(np.arange(size), size, keys(seed, np.full(size, epoch)))
    assert sorted(out.tolist()) == list(range(size))


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 2**40), seed=st.integers(0, 2**64), epoch=st.integers(0, 2**30), data=st.data())
def test_vectorised_permutation_equals_the_scalar_one(size: int, seed: int, epoch: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5))
    ours = permute(np.array(positions), size, keys(seed, np.full(len(positions), epoch)))
    assert ours.tolist() == [scalar_permute(position, size, seed, epoch) for position in positions]


def test_permutation_is_even_over_keys() -> None:
    # 6,000 keys put position 0 on each of 12 places 500 times on average, standard deviation 21.4.
    epochs = np.arange(6_000)
    for position in (0, 11):
        landed = permute(np.full(6_000, position), 12, keys(7, epochs))
        assert np.abs(np.bincount(landed, minlength=12) - 500).max() < 5 * 21.4


# ---------------------------------------------------------------------------------------------- batches


def test_any_step_is_what_reading_through_gives() -> None:
    order = make(windows=1009, batch_size=4)
    epochs = 4 * 100_001 // 1009 + 1
    read_through = np.concatenate([permute(np.arange(1009), 1009, keys(0, np.full(1009, e))) for e in range(epochs)])
    for step in (0, 1, 251, 252, 253, 12_345, 99_999, 100_000):
        expected = read_through[4 * step : 4 * step + 4] * 3
        assert order.batch(step)[:, 0].tolist() == expected.tolist()


@settings(deadline=None, max_examples=40)
@given(windows=st.integers(1, 60), batch_size=st.integers(1, 9), seed=st.integers(0, 9))
def test_every_window_is_seen_once_an_epoch(windows: int, batch_size: int, seed: int) -> None:
    order = make(windows, batch_size=batch_size, seed=seed)
    steps = -(-3 * windows // batch_size)
    seen = np.concatenate([order.batch(step)[:, 0] for step in range(steps)]) // 3
    for epoch in range(3):
        assert sorted(seen[epoch * windows : (epoch + 1) * windows].tolist()) == list(range(windows))


def test_every_token_but_the_first_is_a_target_once_an_epoch() -> None:
    order = make(windows=20, batch_size=5, length=4)
    targets = np.concatenate([order.batch(step)[:, 1:].ravel() for step in range(4)])
    assert sorted(targets.tolist()) == list(range(1, 81))
    inputs = order.batch(2)[:, :-1]
    assert (order.batch(2)[:, 1:] == inputs + 1).all()


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 3), ranks=st.integers(1, 4), parts=st.integers(1, 4), step=st.integers(0, 2**40))
def test_batch_is_the_same_however_it_is_divided(rows: int, ranks: int, parts: int, step: int) -> None:
    order = make(windows=101, batch_size=rows * ranks * parts)
    shares = [
        order.batch(step, rank=rank, ranks=ranks, part=part, parts=parts)
        for rank in range(ranks)
        for part in range(parts)
    ]
    assert all(share.shape == (rows, 4) and share.dtype == np.int64 for share in shares)
    assert np.array_equal(np.concatenate(shares), order.batch(step))


def test_seeds_and_epochs_differ() -> None:
    orders = [make(windows=64, batch_size=64, seed=seed).batch(step)[:, 0] for seed in range(4) for step in range(4)]
    assert len({tuple(order.tolist()) for order in orders}) == 16
    assert len({tuple(make(64, batch_size=64, seed=3).batch(2)[:, 0].tolist()) for _ in range(3)}) == 1


def test_sizes_are_what_they_say() -> None:
    order = TokenOrder(Counting(3_000), sequence_length=256, batch_size=8, seed=0)
    assert (order.windows, order.tokens_per_step, order.steps_per_epoch) == (11, 2048, 11 / 8)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ProblemError, match="use a multiple of 6"):
        make(10, batch_size=8).batch(0, ranks=3, parts=2)
    with pytest.raises(ValueError, match="below its count"):
        make(10).batch(0, rank=2, ranks=2)
    with pytest.raises(ProblemError, match="256 tokens are too few for one sequence of 256"):
        TokenOrder(Counting(256), sequence_length=256, batch_size=8, seed=0)
    assert TokenOrder(Counting(257), sequence_length=256, batch_size=1, seed=0).batch(5).tolist() == [[*range(257)]]


def test_a_far_step_takes_milliseconds() -> None:
    order = TokenOrder(Counting(10**12), sequence_length=256, batch_size=8, seed=0)

    def seconds(step: int) -> float:
        start = time.perf_counter()
        order.batch(step)
        return time.perf_counter() - start

    assert min(seconds(10**6 + repeat) for repeat in range(20)) < 0.005
