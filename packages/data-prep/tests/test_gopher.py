"""Each of Gopher's rules at its threshold, and just beyond."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.config import GopherConfig
from penstock.data_prep.cleaning.gopher import Gopher
from penstock.data_prep.cleaning.words import SYMBOLS, split_words
from penstock.hooks.contracts import Document

_FILLER = ["the", "river", "and", "mills", "of", "stone", "that", "turned", "slowly", "here"]


def _prose(words: int) -> list[str]:
    return [_FILLER[number % len(_FILLER)] for number in range(words)]


def _rule(text: str, split: Any = split_words, **settings: Any) -> str | None:
    judge = Gopher(**settings)
    judge.split = split
    decision = judge.judge(Document(text, "here"))
    assert decision is None or (decision.text is None and decision.detail)
    return decision and decision.rule


def _with(part: str, times: int, words: int = 100) -> str:
    return " ".join(_prose(words - times) + [part] * times)


@pytest.mark.parametrize(
    ("kept", "removed", "rule"),
    [
        (_with("a", 0, 50), _with("a", 0, 49), "few-words"),
        (_with("--", 10, 60), _with("--", 11, 60), "few-words"),
        ("the and " + "abc " * 60, "the and " + "abc " * 60 + "ab", "short-words"),
        ("the be " + "abcdefghij " * 60 + "x" * 25, "the be " + "abcdefghij " * 60 + "x" * 26, "long-words"),
        (_with("#", 10), _with("#", 11), "hashes"),
        (_with("...", 10) + " x", _with("...", 11) + " x", "ellipses"),
        (_with("…", 10) + " x", _with("…", 11) + " x", "ellipses"),
        (_with("2024", 20), _with("2024", 21), "letters"),
        ("the be " + "mill " * 60, "the The " + "mill " * 60, "stop-words"),
    ],
)
def test_a_document_at_the_threshold_stays_and_one_beyond_goes(kept: str, removed: str, rule: str) -> None:
    assert _rule(kept) is None
    assert _rule(removed) == f"gopher/{rule}"


def test_too_many_words() -> None:
    text = _with("a", 0, 60)
    assert _rule(text, maximum_words=60) is None
    assert _rule(text, maximum_words=59) == "gopher/many-words"


@pytest.mark.parametrize("bullet", ["- ", "  • "])
def test_bullets_are_counted_by_line(bullet: str) -> None:
    line = " ".join(_prose(10))
    assert _rule("\n".join([bullet + line] * 9 + [line])) is None
    assert _rule("\n".join([bullet + line] * 10)) == "gopher/bullets"


@pytest.mark.parametrize("end", ["...", "…  "])
def test_ellipses_are_counted_at_ends_of_lines(end: str) -> None:
    line = " ".join(_prose(15))
    assert _rule("\n".join([line + end] * 3 + [line] * 7)) is None
    assert _rule("\n".join([line + end] * 4 + [line] * 6)) == "gopher/ellipsis-lines"


def test_no_rule_fails_where_all_are_off() -> None:
    off = {name: None for name in GopherConfig.model_fields if name != "stop_words"}
    for text in ("", "...", "# " * 50, "x" * 1000):
        assert _rule(text, **off) is None


def test_words_are_those_of_the_splitter() -> None:
    text = _with("a", 0, 60)
    assert _rule(text, split=lambda text: text.split()[:10]) == "gopher/few-words"


def test_stop_words_of_another_language() -> None:
    german = "der Fluss und die Mühle sind alt und werden gepflegt " * 6
    assert _rule(german) == "gopher/stop-words"
    assert _rule(german, stop_words=("der", "die", "und")) is None


@settings(deadline=None)
@given(st.lists(st.sampled_from(["the", "of", "3.5", "--", "#", "a", "éé1", "…", "long" * 30, ""]), max_size=60))
def test_verdicts_are_those_of_plain_counts(words: list[str]) -> None:
    text = " ".join(words)
    counted = [word for word in words if any(letter not in SYMBOLS for letter in word)]
    length = sum(map(len, counted)) / max(1, len(counted))
    share = sum(any(letter.isalpha() for letter in word) for word in words) / max(1, len(words))
    failing = {
        "few-words": len(counted) < 5,
        "many-words": len(counted) > 50,
        "short-words": length < 3,
        "long-words": length > 10,
        "hashes": text.count("#") > 0.1 * len(words),
        "ellipses": text.count("…") > 0.1 * len(words),
        "letters": share < 0.8,
        "stop-words": len({"the", "of"} & set(words)) < 2,
    }
    lines_off = {"maximum_bullet_lines": None, "maximum_ellipsis_lines": None}
    rule = _rule(text, lambda _: words, minimum_words=5, maximum_words=50, **lines_off)
    assert rule == next((f"gopher/{name}" for name, fails in failing.items() if fails), None)
