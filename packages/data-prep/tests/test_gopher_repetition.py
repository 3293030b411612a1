"""Gopher's rules of repetition: thresholds, and the bounds against the rules that they stand for."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.gopher_repetition import (
    REPEATED,
    TOP,
    GopherRepetition,
    _repeated_bounds,
    _top_bounds,
    repeated_characters,
    top_characters,
)
from penstock.hooks.contracts import Document

_WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "", "a b", "…"]), max_size=60)


def _rule(text: str, **settings: Any) -> str | None:
    decision = GopherRepetition(**settings).judge(Document(text, "here"))
    return decision and decision.rule


def _distinct(count: int, length: int = 40) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices("abcdefgh", k=length - 2)) + f"{number:02}" for number in range(count)]


@settings(deadline=None)
@given(_WORDS, st.integers(1, 4))
def test_bounds_are_at_least_what_the_rules_measure(words: list[str], shortest: int) -> None:
    sizes = [shortest, shortest + 1, shortest + 3]
    for bounds, measure in ((_top_bounds, top_characters), (_repeated_bounds, repeated_characters)):
        for bound, size in zip(bounds(words, sizes), sizes, strict=True):
            assert bound >= measure(words, size)


@settings(deadline=None, max_examples=50)
@given(_WORDS)
def test_verdicts_are_those_of_the_rules_without_bounds(words: list[str]) -> None:
    text = " ".join(words) + "."
    off: dict[str, Any] = dict.fromkeys(
        ["maximum_paragraphs", "maximum_paragraph_characters", "maximum_lines", "maximum_line_characters"]
    )
    rules = [(f"top-{n}-gram", top_characters(words, n), limit) for n, limit in TOP]
    rules += [(f"repeated-{n}-grams", repeated_characters(words, n), limit) for n, limit in REPEATED]
    expected = next((name for name, measured, limit in rules if measured / len(text) > limit), None)
    assert _rule(text, split=lambda _: words, **off) == (expected and f"gopher-repetition/{expected}")


def test_bounds_of_prose_ask_no_rule() -> None:
    words = _distinct(200, 6)
    assert _repeated_bounds(words, [5, 10]) == [0, 0]
    assert _top_bounds(words, [2, 3]) == [14, 28]


@pytest.mark.parametrize(
    ("words", "n", "top", "repeated"),
    [
        ("a b a b a b", 2, 9, 4),
        ("a b c d", 2, 3, 0),
        ("x y zz zz zz zz", 2, 15, 4),
        ("a b c", 4, 0, 0),
        ("a a a a a", 2, 12, 4),
    ],
)
def test_measures_by_hand(words: str, n: int, top: int, repeated: int) -> None:
    assert top_characters(words.split(), n) == top
    assert repeated_characters(words.split(), n) == repeated


def test_of_equally_frequent_n_grams_the_first_counts() -> None:
    assert top_characters(["a", "b", "long", "words"], 2) == len("a b")


def test_repeated_lines_and_paragraphs() -> None:
    ten = _distinct(10)
    blank, line = "\n\n", "\n"
    assert _rule(line.join(ten)) is None
    assert _rule(line.join(ten[:7] + ten[:3]), maximum_line_characters=None, repeated=()) is None
    assert _rule(line.join(ten[:6] + ten[:4]), maximum_line_characters=None) == "gopher-repetition/lines"
    assert _rule(line.join(ten[:7] + ten[:3])) == "gopher-repetition/line-characters"
    assert _rule(blank.join(ten[:6] + ten[:4])) == "gopher-repetition/paragraphs"
    assert _rule(blank.join(ten[:7] + ten[:3])) == "gopher-repetition/paragraph-characters"


def test_a_text_without_characters_goes() -> None:
    assert _rule("") == "gopher-repetition/empty"


@pytest.mark.parametrize("text", ["one two", "  \n ", "\x00" * 50, "\n\n\n"])
def test_odd_texts_are_decided(text: str) -> None:
    _rule(text)
