"""Normalisers and the rule of shingles."""

from __future__ import annotations

import unicodedata
from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.characters import CHARACTERS, REFUSED, VANISHED, images
from penstock.data_prep.cleaning.normalise import SEPARATORS, Case, Normaliser, Punctuation, Unicode, Whitespace
from penstock.data_prep.cleaning.shingles import Shingling, shingles
from penstock.hooks.problems import ProblemError

NORMALISERS = [
    Normaliser(unicode, case, punctuation, whitespace)
    for unicode in get_args(Unicode)
    for case in get_args(Case)
    for punctuation in get_args(Punctuation)
    for whitespace in get_args(Whitespace)
]
AWKWARD = st.text(
    st.sampled_from(
        "aAJ\u03a3\u03c3\u0130\u030c\u0301\u0345\u0323\u1100\u1161\u11a8\u0958\u212b=\u0338“.;\u037e \t\x1c\xa0"
        "\ufe0f\u034f\u115f\u1160\u3164\uffa0\U000e0100"
        "ﬁＡ\xad\u200b\u200d\x00\x85\u017f½…\xb4\uff76\uff9e\u3099\u304b\u1d2c™"
    )
)


@settings(max_examples=60)
@given(AWKWARD | st.text(max_size=30))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    for normaliser in NORMALISERS:
        once = normaliser(text)
        assert normaliser(once) == once


@settings(max_examples=60)
@given(AWKWARD | st.text(max_size=30))
def test_texts_that_unicode_holds_equal_become_equal(text: str) -> None:
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    for normaliser in NORMALISERS:
        if normaliser.unicode != "none":
            assert normaliser(forms[0]) == normaliser(forms[1]) == normaliser(text)


def test_each_setting_does_what_it_says() -> None:
    text = " Don't  SHOUT—e\u0301!\n"
    assert Normaliser()(text) == "don t shout é"
    assert Normaliser(case="keep")(text) == "Don t SHOUT é"
    assert Normaliser(punctuation="keep")(text) == "don't shout—é!"
    assert Normaliser(unicode="none")(text) == "don t shout e\u0301"
    assert Normaliser(whitespace="keep")(text) == " don t  shout é \n"
    seen = "\ufeffof\xad\ufb01ce\x00it\xb4s \u200b\uff26ull-width ½ m\xb2 №5…™"
    assert Normaliser()(seen) == "office it s full width 1 2 m2 5"
    assert Normaliser("nfc")(seen) == "\ufeffof\xad\ufb01ce\x00it s \u200b\uff46ull width ½ m\xb2 5"
    assert Normaliser("none", "keep", "keep", "keep")(text) == text


def ignorable() -> list[str]:
    """Characters with these properties in the tables of the package `regex`, which are not Python's."""
    regex = pytest.importorskip("regex", reason="it has the property Default_Ignorable_Code_Point")
    found = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}]")
    return [character for character in map(chr, range(0x110000)) if found.match(character)]


def test_what_unicode_calls_ignorable_or_a_format_is_not_seen() -> None:
    every = ignorable()
    assert {each for each in map(chr, range(0x110000)) if unicodedata.category(each) == "Cf"} <= set(every)
    assert len(every) > 4000
    for case, punctuation, whitespace in product(get_args(Case), get_args(Punctuation), get_args(Whitespace)):
        normaliser = Normaliser("nfkc", case, punctuation, whitespace)
        for character in every:
            assert normaliser(f"a{character}b") == ("a b" if character in SEPARATORS else "ab"), ascii(character)
        assert normaliser("".join(sorted(set(every) - set(SEPARATORS)))) == ""


def test_nothing_else_vanishes() -> None:
    """Not even by NFKC: every other character leaves a trace between two letters."""
    normaliser = Normaliser()
    others = set(map(chr, range(0x110000))) - set(ignorable())
    assert [ascii(each) for each in others if normaliser(f"q{each}q") == "qq"] == []


def test_words_between_separators_that_are_not_seen_stay_apart() -> None:
    for separator in SEPARATORS:
        assert Normaliser()(separator.join(["ไป", "โรงเรียน", "แล้ว"])) == "ไป โรงเรียน แล้ว"
    assert Normaliser()("I \u2764\ufe0f it") == Normaliser()("I \u2764 it") == "i it"
    assert Normaliser(punctuation="keep")("\u2764\ufe0f") == "\u2764"


def test_every_setting_is_in_the_version() -> None:
    assert len({normaliser.version for normaliser in NORMALISERS}) == len(NORMALISERS)


@pytest.mark.parametrize("normaliser", [Normaliser(), Normaliser("none", "keep", "space", "keep")], ids=str)
def test_images_of_characters_make_the_normalised_text(normaliser: Normaliser) -> None:
    """Every character that is not refused, after a letter, after an accented one, and before a letter."""
    table = images(normaliser, True)
    known = [chr(number) for number in range(CHARACTERS) if table[number] != REFUSED]
    assert len(known) > CHARACTERS * 0.98
    text = "".join(f"e{character}ж{character}" for character in known)
    by_table = b"".join(image(int(table[ord(character)]), character) for character in text)
    assert by_table.decode("utf-8", "surrogatepass").split() == normaliser(text).split()


def image(entry: int, character: str) -> bytes:
    length = entry >> 24
    if entry == VANISHED:
        return b""
    return (entry & 0xFFFFFF).to_bytes(3, "little")[:length] if length < 4 else character.encode()


@settings(max_examples=60)
@given(AWKWARD | st.text(st.sampled_from("ab é\t水🙂\ud800"), max_size=30), st.integers(1, 6))
def test_shingling_by_slices_keeps_the_rule(text: str, size: int) -> None:
    for unit in ("word", "character"):
        assert Shingling(unit, size)(text) == shingles(text, unit, size)


def test_shingles_of_words_and_characters() -> None:
    assert Shingling("word", 2)(" to be\n or ") == [b"to be", b"be or"]
    assert Shingling("word", 4)("to be or") == [b"to be or"]
    assert Shingling("character", 2)("né ж") == ["né".encode(), "é ".encode(), " ж".encode()]
    assert Shingling("word", 1)("a a") == [b"a", b"a"]
    assert Shingling("word", 3)(" ") == Shingling("character", 3)("") == []


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(Normaliser, {"case": "title"}), (Shingling, {"unit": "line"}), (Shingling, {"size": 0})],
    ids=str,
)
def test_unknown_settings_are_refused(kind: type[Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ProblemError) as caught:
        kind(**wrong)
    assert caught.value.problems[0].code == "invalid-value"
