"""Laws of equal documents, paragraphs and lines, against a Python set."""

from __future__ import annotations

import re

import pytest
from decided import applied, decide
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.exact import Exact, Unit
from penstock.data_prep.cleaning.normalise import Normaliser
from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import ProblemError

texts = st.lists(st.lists(st.sampled_from(["A", "a", "b.", "b", "!", " ", "\n"]), max_size=8).map("".join), max_size=8)
normalisers = st.sampled_from([None, Normaliser(), Normaliser(case="keep")])


@settings(deadline=None)
@given(texts, normalisers)
def test_a_document_goes_if_an_earlier_one_is_equal(texts: list[str], normaliser: Normaliser | None) -> None:
    decided = decide(Exact("document", normaliser), texts)
    first = dict[str, int]()
    for place, text in enumerate(texts):
        key = (normaliser(text) if normaliser else "") or text
        if first.setdefault(key, place) == place:
            assert place not in decided
        else:
            assert decided[place] == Decision("exact/document", "equal to an earlier document", str(first[key]))


@settings(deadline=None)
@given(texts, normalisers, st.integers(1, 3))
def test_a_line_goes_if_it_stands_earlier(texts: list[str], normaliser: Normaliser | None, shortest: int) -> None:
    decided = decide(Exact("line", normaliser, shortest), texts)
    seen = set[str]()
    for place, text in enumerate(texts):
        kept = list[str]()
        for line in text.split("\n"):
            key = (normaliser(line) if normaliser else "") or line
            if len(line.strip()) < shortest or key not in seen:
                kept.append(line)
            if len(line.strip()) >= shortest:
                seen.add(key)
        if len(kept) == text.count("\n") + 1:
            assert place not in decided
        else:
            rest = "\n".join(kept)
            assert decided[place].text == (rest if rest.strip() else None)


@pytest.mark.parametrize("unit", ["document", "paragraph", "line"])
@settings(deadline=None)
@given(texts, normalisers, st.integers(1, 3))
def test_cleaning_again_changes_nothing(
    unit: Unit, texts: list[str], normaliser: Normaliser | None, shortest: int
) -> None:
    stage = Exact(unit, normaliser, shortest)
    after = applied(texts, decide(stage, texts))
    assert not decide(stage, after)
    if unit == "paragraph":
        kept = [p for text in after for p in re.split(r"\n\s*\n", text) if len(p.strip()) >= shortest]
        keys = [(normaliser(paragraph) if normaliser else "") or paragraph for paragraph in kept]
        assert len(keys) == len(set(keys))


def test_paragraphs_keep_what_stands_between_them() -> None:
    texts = ["one\ntwo\n\nthree", "\n\nthree\n \n\n  four\n\none\ntwo", "Three!"]
    decided = decide(Exact("paragraph", Normaliser(), min_characters=5), texts)
    assert decided == {
        1: Decision("exact/paragraph", "2 of 4 paragraphs stand earlier", "0", "\n\n  four"),
        2: Decision("exact/paragraph", "1 of 1 paragraphs stand earlier", "0"),
    }


def test_the_version_of_the_normaliser_is_hashed() -> None:
    document = [Document("a text that every normaliser leaves as it is", "")]
    every = [None, Normaliser(), Normaliser(punctuation="keep"), Normaliser(unicode="none")]
    assert len({Exact("document", normaliser).sketch(document).tobytes() for normaliser in every}) == len(every)


def test_settings_out_of_range_are_refused() -> None:
    for change in ({"unit": "word"}, {"min_characters": 0}):
        with pytest.raises(ProblemError) as caught:
            Exact(**change)  # pyright: ignore[reportArgumentType]
        assert caught.value.problems[0].code == "invalid-value"
