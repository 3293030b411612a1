"""The rule that makes a text a set: its runs of N words, or of N characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from penstock.data_prep.cleaning.normalise import require_choice
from penstock.hooks.problems import Problem, ProblemError


def shingles(text: str, unit: Literal["word", "character"], size: int) -> list[bytes]:
    """The rule: every run of `size` words or characters, in order, repeated ones too; UTF-8, words joined by a space.

    A text shorter than a shingle is one shingle; an empty one has none.

    >>> shingles("to be  or not", "word", 2)
    [b'to be', b'be or', b'or not']
    """
    units, joint = (text.split(), " ") if unit == "word" else (text, "")
    count = max(len(units) - size + 1, min(len(units), 1))
    runs = (joint.join(units[start : start + size]) for start in range(count))
    return [run.encode("utf-8", "surrogatepass") for run in runs]


@dataclass(frozen=True, slots=True)
class Shingling:
    """`shingles` of one unit and size, and faster. Raises `ProblemError` for another unit, or size below 1."""

    unit: Literal["word", "character"] = "word"
    """Words stand between whitespace. Take `character` for scripts that write none, such as Chinese and Thai."""
    size: int = 5
    """Five words: datatrove's default, with which FineWeb was deduplicated."""

    def __post_init__(self) -> None:
        require_choice("unit", self.unit, ("word", "character"))
        if self.size < 1:
            raise ProblemError(Problem("invalid-value", f"a shingle of {self.size} {self.unit}s", "", "at least 1"))

    def __call__(self, text: str) -> list[bytes]:
        words = self.unit == "word"
        encoded = (" ".join(text.split()) if words else text).encode("utf-8", "surrogatepass")
        if not encoded:
            return []
        octets, gap = np.frombuffer(encoded, np.uint8), int(words)
        starts = np.flatnonzero(octets == ord(" ")) + 1 if words else np.flatnonzero(octets & 0xC0 != 0x80)
        bounds = [*([0] if words else []), *starts.tolist(), len(encoded) + gap]
        size = min(self.size, len(bounds) - 1)
        return [encoded[start : end - gap] for start, end in zip(bounds, bounds[size:], strict=False)]
