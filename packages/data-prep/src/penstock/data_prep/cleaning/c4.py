"""C4's rules (Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2; long words and lines about
cookies are in the code that made the data set).

Lines go first, one by one; then the page is judged by what is left. The paper's list of words that remove a page is not
part of this.
"""

from __future__ import annotations

import re
from collections import Counter

from penstock.data_prep.cleaning.words import Split, split_sentences
from penstock.hooks.contracts import Decision, Document

_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_ENDS = (".", "?", "!", '"', "'")
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class C4:
    """Drops lines that are no sentences, and pages with too few sentences or with signs of code. None or false turns a
    rule off.

    A page that goes on has rule `c4/lines`, and its detail counts the dropped lines by their rule.
    """

    def __init__(
        self,
        *,
        ended_lines: bool = True,
        minimum_line_words: int | None = 3,
        maximum_word_length: int | None = 1000,
        citations: bool = True,
        javascript: bool = True,
        policies: bool = True,
        lorem_ipsum: bool = True,
        curly_brackets: bool = True,
        minimum_sentences: int | None = 5,
    ) -> None:
        self._ended_lines = ended_lines
        self._minimum_line_words = minimum_line_words or 0
        self._maximum_word_length = maximum_word_length
        self._citations = citations
        self._javascript = javascript
        self._policies = policies
        self._lorem_ipsum = lorem_ipsum
        self._curly_brackets = curly_brackets
        self._minimum_sentences = minimum_sentences
        self.split: Split = split_sentences
        """Another splitter may be put here."""

    def judge(self, document: Document) -> Decision | None:
        dropped, text = Counter[str](), document.text
        while True:
            cleaned = self._clean(text, dropped)
            if isinstance(cleaned, Decision):
                return cleaned
            # Without its citations, a line may have too few words, or a citation that stood around another: only then
            # would a second look find something.
            if cleaned == text or not (self._citations and _CITATION.search(text)):
                break
            text = cleaned
        if cleaned == document.text:
            return None
        rules = ", ".join(f"{number} {rule}" for rule, number in sorted(dropped.items()))
        detail = f"dropped lines: {rules}" if rules else "removed citations or spaces around lines"
        return Decision("c4/lines", detail, text=cleaned)

    def _clean(self, text: str, dropped: Counter[str]) -> str | Decision:
        """The text without the lines that go, or why the page is removed. Counts lines that go by rule."""
        kept: list[str] = []
        sentences = 0
        for line in map(str.strip, text.splitlines()):
            words = line.split()
            without = _CITATION.sub("", line) if self._citations else line
            rule = self._line_rule(without, words)
            if rule == "lorem-ipsum":
                return Decision("c4/lorem-ipsum", "the page says 'lorem ipsum'")
            if rule == "curly-bracket":
                return Decision("c4/curly-bracket", "the page has a '{'")
            if rule is not None:
                dropped[rule] += 1
                continue
            sentences += len(self.split(without)) if self._minimum_sentences is not None else 0
            kept.append(without)
        if self._minimum_sentences is not None and sentences < self._minimum_sentences:
            detail = f"{sentences} sentences are left, at least {self._minimum_sentences} are needed"
            return Decision("c4/sentences", detail)
        cleaned = "\n".join(kept).strip()
        return cleaned or Decision("c4/empty", "no line is left")

    def _line_rule(self, line: str, words: list[str]) -> str | None:
        """The first rule that drops the line, or the whole page."""
        longest = self._maximum_word_length
        if longest is not None and max(map(len, words), default=0) > longest:
            return "long-word"
        if self._ended_lines and (not line.endswith(_ENDS) or line.endswith("...")):
            return "not-ended"
        if len(words) < self._minimum_line_words:
            return "few-words"
        lower = line.lower()
        if self._lorem_ipsum and "lorem ipsum" in lower:
            return "lorem-ipsum"
        if self._javascript and "javascript" in lower:
            return "javascript"
        if self._curly_brackets and "{" in line:
            return "curly-bracket"
        if self._policies and any(phrase in lower for phrase in _POLICIES):
            return "policy"
        return None
