# pyright: basic
"""Laws of engines on several ranks: what the others do where one of them fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from penstock.conformance.law import Subject, expect, law
from penstock.conformance.laws.engine_parts import ENGINE, Plan, adam, falling, steps_of
from penstock.conformance.laws.engine_ranks import TOGETHER, require_claim
from penstock.conformance.ranks import RankEnd, ranks_asked
from penstock.hooks.problems import ProblemError
from penstock.hooks.registry import Choice

SOON = 20.0  # seconds after which a rank must have noticed that another is gone
REASON = "no water in the turbine"


@law(ENGINE, needs=TOGETHER)
def an_error_on_one_rank_is_told_to_the_others(subject: Subject) -> None:
    """Where a rank leaves with `close(error)`, the others raise a `ProblemError` that names the rank and the error,
    instead of waiting.

    Leave the error where the others look for it before leaving the group.
    """
    require_claim(subject)
    for wait in (next_step, total):
        first, second = ranks_asked(partial(fail, wait), subject.choice(), 2, SOON)
        expect(second.status == 0, f"rank 1, which closes with an error, {second}")
        told = told_of(first)
        named = "rank 1" in told and REASON in told
        expect(named, f"rank 1 closed with the error '{REASON}', and rank 0 says: {told}")


@law(ENGINE, needs=TOGETHER)
def ranks_end_where_another_dies(subject: Subject) -> None:
    """Where a rank is killed, the others raise a `ProblemError` instead of waiting.

    Turn the error of a broken collective into a `ProblemError`.
    """
    require_claim(subject)
    for wait in (next_step, total):
        first, second = ranks_asked(partial(die, wait), subject.choice(), 2, SOON)
        assert second.status == -signal.SIGKILL, second
        told_of(first)


def told_of(end: RankEnd) -> str:
    """The `ProblemError` of rank 0."""
    expect(end.status == 0, f"rank 0 {end}")
    expect(end.answer is not None, "rank 0 has not noticed that rank 1 is gone")
    kind, text = end.answer
    expect(kind == ProblemError.__name__, f"rank 0 raises {kind}: {text}")
    return text


# ---------------------------------------------------------------------------------------------- what ranks do

Wait = Callable[[Any], object]
PLAN = Plan(steps_of(2, 2), optimizer=adam)


def fail(wait: Wait, choice: Choice) -> tuple[str, str] | None:
    engine = begun(choice)
    if engine.rank == 1:
        engine.close(ArithmeticError(REASON))
        return None
    return raised(wait, engine)


def die(wait: Wait, choice: Choice) -> tuple[str, str] | None:
    engine = begun(choice)
    if engine.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return raised(wait, engine)


def begun(choice: Choice) -> Any:
    """The engine after a step that all ranks have taken."""
    engine = choice.build(device=torch.device("cpu"))
    engine.prepare(PLAN.module(), PLAN.optimizer, falling)
    PLAN.take(engine, 0)
    engine.barrier()
    return engine


def raised(wait: Wait, engine: Any) -> tuple[str, str] | None:
    """The kind and text of the error with which a call that waits for the others ends."""
    try:
        wait(engine)
    except Exception as error:  # the law says which it must be
        engine.close(error)
        return type(error).__name__, str(error)
    return None


def next_step(engine: Any) -> None:
    PLAN.take(engine, 1)


def total(engine: Any) -> None:
    time.sleep(0.2)  # rank 1 is gone before this call, not during it
    engine.total(torch.ones(1))
