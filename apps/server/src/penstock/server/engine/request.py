"""What the engine is asked, and what it answers, as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from penstock.hooks.contracts import Draw


class Ended(StrEnum):
    """Why a text ended."""

    STOP = "stop"
    """A token that ends a text."""
    LENGTH = "length"
    """As many tokens as were asked for."""
    ERROR = "error"
    """Logits that are NaN or infinite."""


@dataclass(frozen=True, slots=True)
class Job:
    """A text to continue by `most` tokens: `ends` are the tokens after which it ends sooner, and `seed` begins its
    draws."""

    id: int
    tokens: Sequence[int]
    most: int
    draw: Draw
    seed: int = 0
    ends: Sequence[int] = ()

    def line(self) -> bytes:
        return json.dumps({"begin": asdict(self)}).encode() + b"\n"

    @classmethod
    def of(cls, written: dict[str, object]) -> Job:
        return cls(**{**written, "draw": Draw(**written["draw"])})  # pyright: ignore


@dataclass(frozen=True, slots=True)
class Step:
    """A token of the text `id`: `cached` are the tokens of its prompt that a slot had read before, known from the first
    step on. `token` is None where the text ended without one."""

    id: int
    token: int | None
    ended: Ended | None = None
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()
    cached: int = 0
