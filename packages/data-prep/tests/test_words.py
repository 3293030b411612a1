"""Laws of the splitters, against a regular expression and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning import words as words_module
from penstock.data_prep.cleaning.words import SYMBOLS, TERMINAL, repeats, split_sentences, split_words


@settings(deadline=None)
@given(st.text(st.sampled_from("abN1 .,'\"-()_$=/:…\u2019nt\n\ud800\U0001f600"), max_size=30))
def test_words_put_together_are_the_text_without_spaces(text: str) -> None:
    words = split_words(text)
    assert "".join(words) == "".join(text.split())
    assert all(words)


@settings(deadline=None)
@given(st.text(st.sampled_from("aB1é.,-'_(#$«"), min_size=1, max_size=6))
def test_a_piece_with_one_sign_is_split_as_one_with_more(piece: str) -> None:
    assert split_words(f"__{piece}") == ["_", "_", *split_words(piece)]


def test_words_are_the_same_after_more_of_them_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_module, "_MOST", 3)
    known = words_module.Known(len)
    listed = [letter * times for times in (1, 2, 150) for letter in "abcde"] * 2
    assert [known[word] for word in listed] == list(map(len, listed))
    assert len(known) <= 3
    assert "a" * 150 not in known


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The mill, the river.", "The|mill|,|the|river|."),
        ("(It's well-known)", "(|It|'s|well|-|known|)"),
        ("We don't; they\u2019ve $5.00", "We|do|n't|;|they|\u2019ve|$|5.00"),
        ("J. R. Roe of the U.S. met NASA.", "J.|R.|Roe|of|the|U.S.|met|NASA|."),
        ("Wait... what?!", "Wait|...|what|?|!"),
        ("foo(bar) x=y a/b 3-4 end.Next", "foo(bar|)|x|=|y|a|/|b|3|-|4|end|.|Next"),
        ("see https://example.org/a=b, now", "see|https://example.org/a=b|,|now"),
        ("हिन्दी भाषा।", "हिन्दी|भाषा|।"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_words_by_hand(text: str, words: str) -> None:
    assert split_words(text) == [word for word in words.split("|") if word]


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
