"""Continuing many texts at once, each in a slot of its own, for servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from penstock.hooks.contracts.tensors import Array


@dataclass(frozen=True, slots=True)
class Draw:
    """How a token is chosen. `temperature` 0 takes the likeliest; `top_k` and `top_p` draw among the likeliest alone.
    `logprobs` says of how many of the likeliest tokens the log-probability is told, beside that of the chosen one;
    None tells none. Log-probabilities are those of the model, before temperature and restrictions."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A text that goes on: the tokens that its slot has not read, at least one, and how the next is chosen."""

    slot: int
    tokens: Sequence[int]
    draw: Draw = Draw()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The next token of a text, which its slot has not read. `token` None: the model computed logits that are NaN or
    infinite. `top` are the likeliest tokens with their log-probabilities, the likeliest first."""

    token: int | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class SlotDecoder(Protocol):
    """A model that holds texts in `slots`, each of up to `positions` tokens.

    A slot's text is what it has read. Nothing that other slots do changes what a slot computes, but for rounding, and
    where a router's choice depends on the tokens beside it.
    """

    slots: int
    positions: int
    vocabulary_size: int

    def begin(self, slot: int, seed: int) -> None:
        """Starts the draws of a slot anew: with one seed, one text follows from one prompt. What it has read stays."""
        ...

    def read(self, slot: int, tokens: Sequence[int]) -> None:
        """Reads tokens without choosing what follows. Raises ValueError if the slot has no room for them."""
        ...

    def step(self, rows: Sequence[Row]) -> list[Chosen]:
        """Reads the tokens of each row, whose slots differ, and chooses what follows each."""
        ...

    def length(self, slot: int) -> int:
        """How many tokens the slot has read."""
        ...

    def cut(self, slot: int, length: int) -> None:
        """Forgets all but the first `length` tokens of a slot. A state that cannot go back forgets those too: `length`
        of the slot says what is left."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Makes the first `length` tokens of `source` the text of `target`, which is empty where the state of `source`
        can be no text's but its own."""
        ...

    def expert_loads(self) -> Mapping[int, Array]:
        """How many tokens each expert got since the last call: [E] int64 by layer. Empty for a model without experts,
        or one whose experts are not counted."""
        ...


@runtime_checkable
class Slotted(Protocol):
    """A language model that may compute many slots in one pass."""

    def slot_decoder(self, slots: int, positions: int) -> Any:
        """A `SlotDecoder` of this model, as its weights are now; None where it computes one text after the other."""
        ...
