"""Rules that keep a share of the cells, however close the others are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from penstock.hooks.contracts.stopping import Standing
from penstock.sweep.rules.order import ranked


class Halving:
    """Successive halving: one of `reduction` cells goes on at each rung, rounded up (Jamieson and Talwalkar, AISTATS
    2016)."""

    def __init__(self, *, reduction: int = 2) -> None:
        self.reduction = reduction

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, str]:
        return _all_but(math.ceil(len(standings) / self.reduction), standings)


class Asha:
    """The promotions of ASHA (Li et al., MLSys 2020) with a barrier: one of `reduction` cells goes on, rounded down and
    at least one, after `first` tokens and each time that these have grown by that factor. Rungs between decide
    nothing."""

    def __init__(self, *, reduction: int = 4, first: int = 1) -> None:
        self.reduction, self.first = reduction, first

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, str]:
        if not any(self._level(each.tokens) > self._before(each) for each in standings):
            return {}
        return _all_but(max(1, len(standings) // self.reduction), standings)

    def _before(self, standing: Standing) -> int:
        return self._level(standing.history[-1].tokens) if standing.history else -1

    def _level(self, tokens: int) -> int:
        """How many decisions lie behind so many tokens, less one."""
        level, due = -1, self.first
        while tokens >= due:
            level, due = level + 1, due * self.reduction
        return level


def _all_but(kept: int, standings: Sequence[Standing]) -> dict[str, str]:
    """Each of the others with its place."""
    places = enumerate(ranked(standings), 1)
    reason = "{bits:.4f} bits per byte, place {place} of {count}, and {kept} go on"
    return {
        each.cell: reason.format(bits=each.bits_per_byte, place=place, count=len(standings), kept=kept)
        for place, each in places
        if place > kept
    }
