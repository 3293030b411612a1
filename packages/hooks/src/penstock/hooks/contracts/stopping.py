"""Rules that stop cells of a sweep early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.hooks.contracts.tensors import Array


@dataclass(frozen=True, slots=True)
class Standing:
    """The result of one cell at one rung. `document_bits` and `document_bytes` are [P], those of each piece of the
    held-out text; `history` are the results of the same cell at earlier rungs."""

    cell: str
    tokens: int
    bits_per_byte: float
    perplexity: float
    document_bits: Array
    document_bytes: Array
    tokenizer: str
    history: tuple[Standing, ...] = ()


class StopRule(Protocol):
    def stopped(self, rung: int, standings: Sequence[Standing]) -> Mapping[str, str]:
        """The cells that stop at a rung, with the reason in a sentence. It depends on the results alone, in any
        order."""
        ...
