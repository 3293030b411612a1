"""FineWeb's own rules of quality (Penedo et al. 2024, "The FineWeb Datasets", section 3.4).

They were chosen among fifty statistics by training models with and without what each removes. The fourth, new lines a
word, is in the code that made the data set, not in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.data_prep.cleaning.words import TERMINAL, Split, repeats, split_words
from penstock.hooks.contracts import Decision, Document


class FineWeb:
    """Removes lists, menus and pages that repeat lines. None turns a rule off; the first rule that fails decides."""

    def __init__(
        self,
        *,
        minimum_ended_lines: float | None = 0.12,
        maximum_short_lines: float | None = 0.67,
        short_line: int = 30,
        maximum_repeated_characters: float | None = 0.01,
        maximum_new_lines: float | None = 0.3,
    ) -> None:
        self._ended = minimum_ended_lines
        self._short = maximum_short_lines
        self._short_line = short_line
        self._repeated = maximum_repeated_characters
        self._new_lines = maximum_new_lines
        self.split: Split = split_words
        """Another splitter may be put here."""

    def judge(self, document: Document) -> Decision | None:
        found = next(self._failures(document.text), None)
        return found and Decision(f"fineweb/{found[0]}", found[1])

    def _failures(self, text: str) -> Iterator[tuple[str, str]]:
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            yield "empty", "no line has text"
            return
        ended = sum(line[-1] in TERMINAL for line in lines) / len(lines)
        if self._ended is not None and ended < self._ended:
            yield "ended-lines", f"{ended:.3f} of lines end as sentences do, at least {self._ended:g} are needed"
        short = sum(len(line) <= self._short_line for line in lines) / len(lines)
        if self._short is not None and short > self._short:
            of = f"of lines have at most {self._short_line} characters"
            yield "short-lines", f"{short:.3f} {of}, at most {self._short:g} are allowed"
        new_lines = text.count("\n")
        repeated = repeats(lines)[1] / (len(text) - new_lines)
        if self._repeated is not None and repeated > self._repeated:
            of = "of characters are in lines that stood before"
            yield "repeated-lines", f"{repeated:.3f} {of}, at most {self._repeated:g} are allowed"
        if self._new_lines is not None and new_lines:
            a_word = new_lines / max(1, len(self.split(text)))
            if a_word > self._new_lines:
                yield "new-lines", f"{a_word:.3f} new lines a word, at most {self._new_lines:g} are allowed"
