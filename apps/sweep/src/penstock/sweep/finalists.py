"""Which cells of the short phase are trained to the end."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.hooks.contracts.stopping import Standing


def finalists(standings: Sequence[Standing], count: int) -> list[str]:
    """The names of the best cells in bits per byte, the best first; equal ones in the order of their names."""
    ranked = sorted(standings, key=lambda standing: (standing.bits_per_byte, standing.cell))
    return [standing.cell for standing in ranked[:count]]
