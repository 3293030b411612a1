"""Schedules that break one law each."""

from __future__ import annotations

import math

from broken.described import described


class Good:
    def __call__(self, progress: float) -> float:
        return 1.0 - progress / 2


class Infinite(Good):
    def __call__(self, progress: float) -> float:
        return math.inf if progress == 1 else super().__call__(progress)


class Negative(Good):
    def __call__(self, progress: float) -> float:
        return 0.5 - progress


class AboveOne(Good):
    def __call__(self, progress: float) -> float:
        return 1.5 - progress


class Zero(Good):
    def __call__(self, progress: float) -> float:
        return 0.0


class Counting(Good):
    calls = 0

    def __call__(self, progress: float) -> float:
        self.calls += 1
        return 1 / (self.calls + 1)

    def __deepcopy__(self, memo: object) -> Good:
        return Good()


class Unpicklable(Good):
    def __init__(self) -> None:
        self.factor = lambda progress: 0.5

    def __call__(self, progress: float) -> float:
        return self.factor(progress)


of = described("schedule", "A schedule that breaks one law")
GOOD = of(Good)
BROKEN = {
    "schedule/a-factor-is-a-finite-number": of(Infinite),
    "schedule/a-factor-is-never-negative": of(Negative),
    "schedule/a-factor-is-at-most-one": of(AboveOne),
    "schedule/the-run-learns": of(Zero),
    "schedule/a-factor-depends-on-progress-alone": of(Counting),
    "schedule/a-copy-is-the-same-schedule": of(Unpicklable),
}
