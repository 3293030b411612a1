"""C4's rules: which lines stay, which pages go, and that a cleaned page is clean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.c4 import C4
from penstock.hooks.contracts import Decision, Document

_GOOD = [f"The mill number {number} stood by the river." for number in range(5)]
_ALL = "\n".join(_GOOD)


def _judge(text: str, **settings: Any) -> Decision | None:
    return C4(**settings).judge(Document(text, "here"))


def test_a_page_of_sentences_stays_as_it_is() -> None:
    assert _judge(_ALL) is None


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("Menu of the page", "not-ended"),
        ("He went on and on...", "not-ended"),
        ("Too short.", "few-words"),
        ("You must enable JavaScript to read this.", "javascript"),
        ("By reading you accept our Terms of Use today.", "policy"),
        ("This word is long: " + "x" * 1001 + ".", "long-word"),
        ("", "not-ended"),
    ],
)
def test_a_line_that_is_no_sentence_goes_and_is_counted(line: str, rule: str) -> None:
    expected = Decision("c4/lines", f"dropped lines: 1 {rule}", text=_ALL)
    assert _judge("\n".join([*_GOOD[:3], line, *_GOOD[3:]])) == expected


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (_ALL + "\nAnd then lorem ipsum was written.", "lorem-ipsum"),
        (_ALL + "\nThen he wrote { for no reason.", "curly-bracket"),
        ("\n".join(_GOOD[:4]), "sentences"),
        ("", "sentences"),
    ],
)
def test_pages_go(text: str, rule: str) -> None:
    decision = _judge(text)
    assert decision is not None
    assert (decision.rule, decision.text) == (f"c4/{rule}", None)


def test_a_sign_of_code_in_a_dropped_line_does_not_remove_the_page() -> None:
    decision = _judge(_ALL + "\nfunction() {")
    assert decision is not None
    assert decision.text == _ALL


def test_citations_go() -> None:
    decision = _judge(_ALL.replace("river.", "river.[12][edit][citation needed]"))
    assert decision is not None
    assert decision.text == _ALL


def test_rules_can_be_turned_off() -> None:
    off: dict[str, Any] = {"minimum_line_words": None, "maximum_word_length": None, "minimum_sentences": None}
    flags = ("ended_lines", "citations", "javascript", "policies", "lorem_ipsum", "curly_brackets")
    text = "JavaScript {[1]\nlorem ipsum\n" + "x" * 2000 + "\nuse cookies"
    assert _judge(text, **off, **dict.fromkeys(flags, False)) is None


def test_nothing_is_left_of_a_page_without_lines() -> None:
    decision = _judge(" \n ", minimum_sentences=None)
    assert decision == Decision("c4/empty", "no line is left")


_LINES = st.sampled_from(
    [
        *_GOOD,
        "Yes [1] [2].",
        "  One two[[1]1] three. ",
        "[1] Four five six.",
        "Menu",
        "a b c d [edit]",
        "x y z.[",
        "\x0b",
    ]
)


@settings(deadline=None)
@given(st.lists(_LINES, max_size=12), st.sampled_from([None, 2]))
def test_a_cleaned_page_is_clean(lines: list[str], minimum: int | None) -> None:
    decision = _judge("\n".join(lines), minimum_sentences=minimum)
    if decision is not None and decision.text is not None:
        assert _judge(decision.text, minimum_sentences=minimum) is None
