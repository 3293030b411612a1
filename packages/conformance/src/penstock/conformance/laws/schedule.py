"""Laws of learning-rate schedules: `Schedule`, progress in [0, 1] to a factor."""

from __future__ import annotations

import copy
import math
import pickle

from penstock.conformance.law import Subject, expect, law, laws_in

SCHEDULE = "schedule"
GRID = [step / 100 for step in range(101)]


@law(SCHEDULE)
def a_factor_is_a_finite_number(subject: Subject) -> None:
    """The factor is finite for every progress in [0, 1], ends included.

    Check divisions by a share that may be 0, and progress 1 at the last step.
    """
    schedule = subject.build()
    for progress in GRID:
        factor = schedule(progress)
        expect(isinstance(factor, float) and math.isfinite(factor), f"the factor of {progress} is {factor!r}")


@law(SCHEDULE, needs=(a_factor_is_a_finite_number,))
def a_factor_is_never_negative(subject: Subject) -> None:
    """No factor is negative: a step never goes uphill.

    Clip the formula at 0.
    """
    schedule = subject.build()
    worst = min(GRID, key=schedule)
    expect(schedule(worst) >= 0, f"the factor of {worst} is {schedule(worst)}")


@law(SCHEDULE, needs=(a_factor_is_a_finite_number,))
def a_factor_is_at_most_one(subject: Subject) -> None:
    """The configured learning rate is the peak: no factor exceeds 1.

    Divide by the largest value, so that `lr` means the same under every schedule.
    """
    schedule = subject.build()
    worst = max(GRID, key=schedule)
    expect(schedule(worst) <= 1 + 1e-12, f"the factor of {worst} is {schedule(worst)}")


@law(SCHEDULE, needs=(a_factor_is_a_finite_number,))
def the_run_learns(subject: Subject) -> None:
    """Some step has a positive factor.

    A schedule that is 0 throughout trains nothing.
    """
    schedule = subject.build()
    expect(any(schedule(progress) > 0 for progress in GRID), "every factor is 0")


@law(SCHEDULE, needs=(a_factor_is_a_finite_number,))
def a_factor_depends_on_progress_alone(subject: Subject) -> None:
    """The same progress gives the same factor, in any order of calls.

    A resumed run starts in the middle: do not count calls.
    """
    schedule = subject.build()
    forward = [schedule(progress) for progress in GRID]
    backward = [schedule(progress) for progress in reversed(GRID)][::-1]
    expect(forward == backward, "called in reverse order, the factors differ")


@law(SCHEDULE, needs=(a_factor_depends_on_progress_alone,))
def a_copy_is_the_same_schedule(subject: Subject) -> None:
    """A deep or pickled copy gives the same factors.

    Store plain numbers as attributes, not lambdas or open files.
    """
    schedule = subject.build()
    for name, other in (("deep", copy.deepcopy(schedule)), ("pickled", pickle.loads(pickle.dumps(schedule)))):
        expect([other(p) for p in GRID] == [schedule(p) for p in GRID], f"the {name} copy gives different factors")


LAWS = laws_in(globals())
