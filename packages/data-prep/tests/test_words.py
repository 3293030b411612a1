"""Laws of the splitters, against a regular expression and by hand."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.words import SYMBOLS, TERMINAL, repeats, split_sentences, split_words

_WORDS = re.compile(r"\w+|[^\w\s]+")


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs", "Mn", "Mc", "Me"]), max_size=30))
def test_words_are_runs_of_word_characters_or_of_symbols(text: str) -> None:
    assert split_words(text) == _WORDS.findall(text)


@pytest.mark.parametrize("text", ["", " ", "a", ".", "a.", ".a", "a\ud800b", "\U0001f600x", "x\U000e0100"])
def test_words_of_short_texts_hold_all_their_characters(text: str) -> None:
    assert "".join(split_words(text)) == text.strip()


def test_vowel_signs_do_not_end_a_word() -> None:
    assert split_words("हिन्दी भाषा।") == ["हिन्दी", "भाषा", "।"]


@settings(deadline=None)
@given(st.text(st.sampled_from("ab.!? '\"\n)MrD")))
def test_sentences_put_together_are_the_text(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert sentences == [text] or all(sentence.strip() for sentence in sentences)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("One.", 1),
        ("One. Two? Three!", 3),
        ('He said "No." She left.', 2),
        ("It cost 3.50 dollars. Cheap!", 2),
        ("Mr. Fox and Mrs. Hare met Dr. J. R. Roe in the U.S. last May.", 1),
        ("Wait... what?! Yes.", 2),
        ("See example.org for more.", 1),
    ],
)
def test_sentences_end_where_readers_end_them(text: str, number: int) -> None:
    assert len(split_sentences(text)) == number


@given(st.lists(st.sampled_from(["", "a", "bb", "ccc"])))
def test_repeats_count_all_but_the_first(pieces: list[str]) -> None:
    later = [piece for place, piece in enumerate(pieces) if piece in pieces[:place]]
    assert repeats(pieces) == (len(later), sum(map(len, later)))


def test_tables_of_characters_hold_what_they_say() -> None:
    assert {".", "!", "?", "。", "؟", "।", "…"} & TERMINAL == {".", "!", "?", "。", "؟", "।"}
    assert {"-", "…", "»", "\x00", "\x85", "。"} <= SYMBOLS
    assert not SYMBOLS & {"a", "é", "•", "€", "\n", "\t", " "}
    assert len(TERMINAL) == 159
