"""The rule that makes a text a set: its runs of N words, or of N characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.data_prep.cleaning.normalise import require_choice
from penstock.hooks.problems import Problem, ProblemError


@dataclass(frozen=True, slots=True)
class Shingling:
    """Runs of `size` words or characters. Raises `ProblemError` for another unit and a size below 1."""

    unit: Literal["word", "character"] = "word"
    """Words stand between whitespace. Take `character` for scripts that write none, such as Chinese and Thai."""
    size: int = 5
    """Five words: datatrove's default, with which FineWeb was deduplicated."""

    def __post_init__(self) -> None:
        require_choice("unit", self.unit, ("word", "character"))
        if self.size < 1:
            raise ProblemError(Problem("invalid-value", f"a shingle of {self.size} {self.unit}s", "", "at least 1"))

    def __call__(self, text: str) -> list[bytes]:
        """The shingles of a text in its order, repeated ones too: UTF-8, words joined by one space.

        A text shorter than a shingle is one shingle; an empty one has none.

        >>> Shingling("word", 2)("to be  or not")
        [b'to be', b'be or', b'or not']
        """
        units, joint = (text.split(), " ") if self.unit == "word" else (text, "")
        count = max(len(units) - self.size + 1, min(len(units), 1))
        runs = (joint.join(units[start : start + self.size]) for start in range(count))
        return [run.encode("utf-8", "surrogatepass") for run in runs]
