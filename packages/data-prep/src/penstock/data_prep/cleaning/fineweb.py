"""FineWeb's own rules of quality (Penedo et al. 2024, "The FineWeb Datasets", section 3.4).

They were chosen among fifty statistics by training models with and without what each removes. The fourth, new lines a
word, is in the code that made the data set, not in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.data_prep.cleaning.words import Split, repeats, split_words
from penstock.hooks.contracts import Decision, Document

_RANGES = """
21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6 17D9-17DA
1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 2E53-2E54
3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F
FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239
1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C
11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88
"""


def _characters(ranges: str) -> Iterator[str]:
    for each in ranges.split():
        first, _, last = each.partition("-")
        yield from map(chr, range(int(first, 16), int(last or first, 16) + 1))


TERMINAL = frozenset(_characters(_RANGES))
"""Characters that end sentences: the property Sentence_Terminal of Unicode 15, and three Khmer signs."""


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
        split: Split = split_words,
    ) -> None:
        self._ended = minimum_ended_lines
        self._short = maximum_short_lines
        self._short_line = short_line
        self._repeated = maximum_repeated_characters
        self._new_lines = maximum_new_lines
        self._split = split

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
            a_word = new_lines / max(1, len(self._split(text)))
            if a_word > self._new_lines:
                yield "new-lines", f"{a_word:.3f} new lines a word, at most {self._new_lines:g} are allowed"
