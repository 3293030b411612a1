"""Gopher's rules of repetition: thresholds, and the bounds against the rules that they stand for."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.gopher_repetition import (
    REPEATED,
    TOP,
    GopherRepetition,
    grams_of,
    repeated_characters,
    top_characters,
)
from penstock.data_prep.cleaning.words import split_words
from penstock.hooks.contracts import Document

_WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "", "a b", "…"]), max_size=60)


def _rule(text: str, split: Any = split_words, **settings: Any) -> str | None:
    judge = GopherRepetition(**settings)
    judge.split = split
    decision = judge.judge(Document(text, "here"))
    return decision and decision.rule


def _distinct(count: int, length: int = 40) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices("abcdefgh", k=length - 2)) + f"{number:02}" for number in range(count)]


def _top(words: list[str], n: int) -> int:
    grams = Counter(" ".join(words[start : start + n]) for start in range(len(words) - n + 1))
    return max((times * len(gram) for gram, times in grams.most_common(1)), default=0)


def _repeated(words: list[str], n: int) -> int:
    seen = set[str]()
    characters = start = 0
    while start + n <= len(words):
        gram = "".join(words[start : start + n])
        characters += len(gram) if gram in seen else 0
        start += n if gram in seen else 1
        seen.add(gram)
    return characters


@settings(deadline=None)
@given(_WORDS, st.integers(1, 4))
def test_measures_are_those_of_plain_strings(words: list[str], n: int) -> None:
    assert top_characters(grams_of(words)[0], n) == _top(words, n)
    assert repeated_characters(grams_of(words)[1], n) == _repeated(words, n)


@settings(deadline=None)
@given(_WORDS, st.integers(1, 4), st.integers(0, 60))
def test_measures_above_a_number_are_the_same_and_others_are_not_above_it(words: list[str], n: int, least: int) -> None:
    spaced, joined = grams_of(words)
    for known, found in (
        (_top(words, n), top_characters(spaced, n, least)),
        (_repeated(words, n), repeated_characters(joined, n, least)),
    ):
        assert found == known or (found == 0 and known <= least)


def test_measures_of_long_texts_are_those_of_plain_strings() -> None:
    draw = random.Random(0)
    words = draw.choices(["the", "mill", "😀", "river,", "of"], k=3000)
    for n in (2, 3, 5, 8):
        assert top_characters(grams_of(words)[0], n) == _top(words, n)
        assert repeated_characters(grams_of(words)[1], n) == _repeated(words, n)


@settings(deadline=None, max_examples=50)
@given(_WORDS)
def test_the_first_rule_that_fails_decides(words: list[str]) -> None:
    text = " ".join(words) + "."
    off: dict[str, Any] = dict.fromkeys(
        ["maximum_paragraphs", "maximum_paragraph_characters", "maximum_lines", "maximum_line_characters"]
    )
    rules = [(f"top-{n}-gram", _top(words, n), limit) for n, limit in TOP]
    rules += [(f"repeated-{n}-grams", _repeated(words, n), limit) for n, limit in REPEATED]
    expected = next((name for name, measured, limit in rules if measured / len(text) > limit), None)
    assert _rule(text, split=lambda _: words, **off) == (expected and f"gopher-repetition/{expected}")


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
    assert top_characters(grams_of(words.split())[0], n) == _top(words.split(), n) == top
    assert repeated_characters(grams_of(words.split())[1], n) == _repeated(words.split(), n) == repeated


def test_of_equally_frequent_n_grams_the_first_counts() -> None:
    assert top_characters(grams_of(["a", "b", "long", "words"])[0], 2) == len("a b")


def test_repeated_lines_and_paragraphs() -> None:
    ten = _distinct(10)
    for end, name in (("\n", "line"), ("\n\n", "paragraph")):
        off: dict[str, Any] = {"top": (), "repeated": ()}
        if name == "paragraph":
            off |= {"maximum_lines": None, "maximum_line_characters": None}
        characters_off = {f"maximum_{name}_characters": None}
        assert _rule(end.join(ten), **off) is None
        assert _rule(end.join(ten[:7] + ten[:3]), **off, **characters_off) is None
        assert _rule(end.join(ten[:6] + ten[:4]), **off, **characters_off) == f"gopher-repetition/{name}s"
        assert _rule(end.join(ten[:8] + ten[:2]), **off) is None
        assert _rule(end.join(ten[:7] + ten[:3]), **off) == f"gopher-repetition/{name}-characters"


def test_a_text_without_characters_goes() -> None:
    assert _rule("") == "gopher-repetition/empty"


@pytest.mark.parametrize("text", ["one two", "  \n ", "\x00" * 50, "\n\n\n"])
def test_odd_texts_are_decided(text: str) -> None:
    _rule(text)
