"""A port's time, by hand and by its laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.netsim.port import Port

PIECES = Port(100.0, latency=1.0, peer_overhead=0.5, eager_bytes=10, rendezvous=2.0, bulk_bytes=1000, bulk_setup=4.0)


@pytest.mark.parametrize(
    ("moved", "peers", "message", "seconds"),
    [
        (0, 3, 0, 0.0),
        (10, 1, 10, 1.1),
        (10, 3, 10, 2.1),
        (50, 1, 11, 3.5),
        (2000, 1, 1000, 23.0),
        (2000, 1, 1001, 27.0),
    ],
)
def test_each_piece_by_hand(moved, peers, message, seconds):
    assert PIECES.seconds(moved, peers, message) == pytest.approx(seconds)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 64))
def test_larger_messages_never_take_less_time(first, second, peers):
    less, more = sorted((first, second))
    assert PIECES.seconds(less, peers, less / peers) <= PIECES.seconds(more, peers, more / peers)


@pytest.mark.parametrize("wrong", [{"bandwidth": 0.0}, {"bandwidth": 1.0, "latency": -1.0}])
def test_impossible_figures_are_refused(wrong):
    with pytest.raises(ValueError, match="port"):
        Port(**wrong)
