"""Each of FineWeb's rules at its threshold, and just beyond."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.data_prep.cleaning.fineweb import FineWeb
from penstock.data_prep.cleaning.words import split_words
from penstock.hooks.contracts import Document

_LONG = "the gate of the old mill was opened by the river in spring {}"


def _rule(text: str, split: Any = split_words, **settings: Any) -> str | None:
    judge = FineWeb(**settings)
    judge.split = split
    decision = judge.judge(Document(text, "here"))
    return decision and decision.rule


def _lines(ended: int, plain: int) -> list[str]:
    return [_LONG.format(number) + ("." if number < ended else "") for number in range(ended + plain)]


def test_share_of_ended_lines() -> None:
    assert _rule("\n".join(_lines(12, 88))) is None
    assert _rule("\n".join(_lines(11, 89))) == "fineweb/ended-lines"
    assert _rule("\n".join(line + " " for line in _lines(50, 0))) == "fineweb/ended-lines"


def test_share_of_short_lines() -> None:
    short = ["x" * 28 + f"{number:02}" for number in range(67)]
    words = {"maximum_new_lines": None}
    assert _rule("\n".join(_lines(33, 0) + short), **words) is None
    assert _rule("\n".join(_lines(32, 0) + short), **words) == "fineweb/short-lines"
    assert _rule("\n".join(_lines(32, 0) + short), short_line=29, **words) is None


def test_characters_of_repeated_lines() -> None:
    lines = ["a" * 99 + "."] + [f"{number:099}." for number in range(98)]
    assert _rule("\n".join([*lines, lines[0]]), maximum_new_lines=None) is None
    assert _rule("\n".join([*lines[:-1], lines[0]]), maximum_new_lines=None) == "fineweb/repeated-lines"
    assert _rule("\n".join([*lines[:-1], lines[0]]), maximum_new_lines=None, maximum_repeated_characters=None) is None


def test_new_lines_a_word() -> None:
    lines = [f"word{number} " + "x" * 40 + " end" for number in range(11)]
    text = "\n".join(lines)
    assert _rule(text, minimum_ended_lines=None, split=lambda text: [""] * 34) is None
    assert _rule(text, minimum_ended_lines=None, split=lambda text: [""] * 33) == "fineweb/new-lines"
    assert _rule(text, minimum_ended_lines=None, split=lambda text: []) == "fineweb/new-lines"


@pytest.mark.parametrize("text", ["", " \n\t\n "])
def test_blank_documents_go(text: str) -> None:
    assert _rule(text) == "fineweb/empty"


def test_blank_lines_do_not_count() -> None:
    text = "\n \n\n".join(_lines(12, 88))
    assert _rule(text, maximum_new_lines=None) is None
