"""Rules that stop cells of a sweep early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.hooks.contracts.tensors import Array


@dataclass(frozen=True, slots=True)
class Standing:
    """The result of one cell at one rung, the mean of `seeds` runs.

    `document_bits` and `document_bytes` are [P], those of each piece of the held-out text. `costs` are the other
    objectives of the sweep that are exact, such as parameters, smaller being better; all cells have the same ones.
    `history` are the results of the same cell at earlier rungs, the earliest first. `whole` are the tokens of a run to
    the end of the sweep, and `tokens` those of this result.
    """

    cell: str
    tokens: int
    bits_per_byte: float
    perplexity: float
    document_bits: Array
    document_bytes: Array
    tokenizer: str
    history: tuple[Standing, ...] = ()
    seeds: int = 1
    costs: tuple[float, ...] = ()
    whole: int = 0


class StopRule(Protocol):
    """Decides at each rung of a sweep which cells go on.

    A rule that needs a stretch of training may say so by an attribute `judges_over`, in tokens. A sweep whose first and
    last rung are closer is refused, since the rule would never stop a cell.
    """

    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, str]:
        """The cells that stop at a rung, each with the reason in a sentence; some cell goes on. The answer depends on
        the results alone, in any order."""
        ...
