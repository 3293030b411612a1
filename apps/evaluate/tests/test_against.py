import numpy as np
import pytest

from penstock.eval_suite.intervals import intervals_of
from penstock.evaluate.against import independent
from penstock.hooks.contracts import Estimate, Interval


def share(right: int, of: int) -> tuple[float, Interval]:
    scores = {"right": np.repeat([1.0, 0.0], [right, of - right])}
    found = intervals_of(lambda drawn: {"share": drawn["right"].mean()}, scores, estimates={"share": Estimate("right")})
    return right / of, found.found["share"]


def test_unpaired_shares_differ_as_newcombe_published():
    found = independent(*share(56, 70), *share(48, 80))  # 1998, Statistics in Medicine 17:873, method 10, first example
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_two_shares_of_0_may_differ():
    found = independent(*share(0, 60), *share(0, 60))
    assert found is not None
    assert found.low < -0.05
    assert found.high > 0.05
