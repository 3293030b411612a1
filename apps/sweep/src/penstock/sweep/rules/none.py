"""The rule that stops nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.hooks.contracts.stopping import Standing


class NoRule:
    """Every cell goes on to the end of the phase."""

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, str]:
        return {}
