"""Ranks that are asked something end, and it is said how each did."""

from __future__ import annotations

import os
import signal
import time

import pytest
from broken.engine import GOOD

from penstock.conformance.kit import UNPACKAGED
from penstock.conformance.law import Violation
from penstock.conformance.ranks import ranks_asked, told_by_ranks
from penstock.hooks.registry import Choice, Entry

CHOICE = Choice(Entry(GOOD, UNPACKAGED), None)


def own_number(_: Choice) -> tuple[str, str, int]:
    return os.environ["RANK"], os.environ["MASTER_PORT"], os.getpid()


def dies_on_rank_1(_: Choice) -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)


def fails_on_rank_1(_: Choice) -> None:
    if os.environ["RANK"] == "1":
        raise ArithmeticError("no water")


def waits_for_ever(_: Choice) -> None:
    while True:
        time.sleep(1)


def test_each_rank_answers_at_a_rendezvous_of_its_question() -> None:
    first, second = told_by_ranks(own_number, CHOICE, 2), told_by_ranks(own_number, CHOICE, 2)
    assert [rank for rank, _, _ in first + second] == ["0", "1", "0", "1"]
    assert len({port for _, port, _ in first + second}) == 2
    assert len({process for _, _, process in first + second}) == 4


@pytest.mark.parametrize(
    ("ask", "said"), [(dies_on_rank_1, "rank 1 was killed by SIGKILL"), (fails_on_rank_1, "rank 1 fails: .*no water")]
)
def test_a_rank_that_fails_is_named(ask, said) -> None:
    with pytest.raises(Violation, match=f"(?s){said}"):
        told_by_ranks(ask, CHOICE, 2)


def test_ranks_that_do_not_end_are_killed_and_say_where_they_were() -> None:
    begun = time.monotonic()
    with pytest.raises(Violation, match=r"2 ranks have not ended within 1 s: rank 0 hangs in waits_for_ever .*rank 1"):
        ranks_asked(waits_for_ever, CHOICE, 2, seconds=1)
    assert time.monotonic() - begun < 30
    assert told_by_ranks(own_number, CHOICE, 2)
