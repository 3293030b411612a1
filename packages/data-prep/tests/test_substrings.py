"""Laws of repeated spans, against a set of tuples of tokens."""

from __future__ import annotations

import lzma
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from decided import applied, decide
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning import substrings, windows
from penstock.data_prep.cleaning.substrings import Substrings
from penstock.hooks.contracts import Decision
from penstock.hooks.problems import ProblemError

Action = Literal["cut", "remove"]
RANDOM = random.Random(0)
_TOKEN = re.compile(r"[\u3000-\u9fff]|[^ \t\n\v\f\r\u3000-\u9fff]+")


def naive(texts: Sequence[str], length: int, action: Action = "cut", share: float = 0.5) -> dict[int, str | None]:
    """Document by document, token by token, with a set of all windows kept so far."""
    seen = set[tuple[str, ...]]()
    changed = dict[int, str | None]()
    for place, text in enumerate(texts):
        tokens = list(_TOKEN.finditer(text))
        passage = np.cumsum([0, *("\f" in text[a.end() : b.start()] for a, b in pairwise(tokens))]).tolist()
        found = [
            (at, tuple(token.group() for token in tokens[at : at + length]))
            for at in range(len(tokens) - length + 1)
            if passage[at] == passage[at + length - 1]
        ]
        bad = {token for at, window in found if window in seen for token in range(at, at + length)}
        if action == "remove":
            if bad and len(bad) >= share * len(tokens):
                changed[place] = None
                continue
            bad.clear()
        seen.update(window for at, window in found if not bad or not bad.intersection(range(at, at + length)))
        if bad:
            rest, end = "", 0
            for token in sorted(bad):
                if token - 1 not in bad:
                    rest += text[end : tokens[token].start()] + "\f"
                end = tokens[token].end()
            changed[place] = (rest + text[end:]).strip(" \t\n\v\f\r") or None
    return changed


words = st.lists(st.sampled_from(["a", "b", "ü", "水", " ", "\n", "\f", "  "]), max_size=25).map("".join)


@pytest.mark.parametrize("action", ["cut", "remove"])
@settings(deadline=None, max_examples=80)
@given(texts=st.lists(words, max_size=8), length=st.integers(2, 4))
def test_decisions_are_those_of_a_naive_set_and_cleaning_again_changes_nothing(
    texts: list[str], length: int, action: Action
) -> None:
    stage = Substrings(length, action, share=0.4)
    decided = decide(stage, texts)
    assert {place: decision.text for place, decision in decided.items()} == naive(texts, length, action, 0.4)
    assert not decide(stage, applied(texts, decided))


def corpus_with_repeats(size: int) -> list[str]:
    """Texts of a small vocabulary, of which every third repeats a piece of an earlier one."""
    draw = random.Random(0)
    vocabulary = [f"word{number}" for number in range(300)]
    texts, total = list[str](), 0
    while total < size:
        tokens = draw.choices(vocabulary, k=draw.randrange(200))
        if len(texts) % 3 == 2:
            source = draw.choice(texts).split()
            start = draw.randrange(len(source) + 1)
            tokens[5:5] = source[start : start + draw.randrange(100)]
        texts.append("".join(token + draw.choice([" ", "\n", "  "]) for token in tokens))
        total += len(texts[-1])
    return texts


def test_one_megabyte_is_decided_as_by_a_naive_set() -> None:
    texts = corpus_with_repeats(1_000_000)
    decided = decide(Substrings(20), texts, shard=500)
    assert {place: decision.text for place, decision in decided.items()} == naive(texts, 20)
    assert len(decided) > 150


def test_public_texts_are_decided_as_by_a_naive_set() -> None:
    if "PENSTOCK_DATA" not in os.environ:
        pytest.skip("PENSTOCK_DATA does not name the folder of public data")
    texts = list[str]()
    for file in sorted(Path(os.environ["PENSTOCK_DATA"], "web_text").glob("*.xz")):
        text = lzma.decompress(file.read_bytes()).decode()[:100_000]
        texts += [text[start : start + 3000] for start in range(0, len(text), 2500)]
    decided = decide(Substrings(20), texts, shard=100)
    assert {place: decision.text for place, decision in decided.items()} == naive(texts, 20)
    assert len(decided) > 30


def test_blocks_and_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus_with_repeats(30_000)
    whole = decide(Substrings(10), texts)
    monkeypatch.setattr(substrings, "_BLOCK", 1000)
    monkeypatch.setattr(substrings, "_SORTED_SHARE", 0.05)
    monkeypatch.setattr(windows, "_PIECE", 1100)
    assert whole
    assert decide(Substrings(10), texts) == whole


def test_windows_of_one_hash_and_other_tokens_are_not_cut() -> None:
    """A Thue-Morse word and its complement of 1,024 letters have the same polynomial modulo 2**64 for any odd base."""
    word = "".join("ab"[number.bit_count() % 2] for number in range(1024))
    other = word.translate(str.maketrans("ab", "ba"))
    hashes = [windows.find_tokens(np.frombuffer(text.encode(), np.uint8)).hashes_T for text in (word, other)]
    assert hashes[0] == hashes[1]
    assert word != other
    assert not decide(Substrings(2), [f"{word} end", f"{other} end"])
    assert list(decide(Substrings(2), [f"{word} end", f"{other} end", f"{word}\nend"])) == [2]


def test_a_decision_names_the_document_that_keeps_the_span() -> None:
    poem = "one two three four five"
    decided = decide(Substrings(3), ["nothing", f"{poem} six", f"so {poem}\nseven", "two  three\tfour"])
    assert decided == {
        2: Decision(
            "substrings/cut", f"5 of 7 tokens stand in earlier documents, from '{poem}' on", "1", "so \f\nseven"
        ),
        3: Decision("substrings/cut", "3 of 3 tokens stand in earlier documents, from 'two three four' on", "1"),
    }


def test_a_long_run_without_whitespace_is_broken_between_characters() -> None:
    text = "é" * 4000
    tokens = windows.find_tokens(np.frombuffer(windows.encoded(f"{text} end"), np.uint8))
    pieces = [windows.encoded(f"{text} end")[a:b].decode() for a, b in zip(tokens.starts_T, tokens.ends_T, strict=True)]
    assert "".join(pieces) == f"{text}end"
    assert max(len(piece.encode()) for piece in pieces) <= windows.LONGEST
    decided = decide(Substrings(3), [text, f"x {text}"])
    assert decided[1].text == "x"


@pytest.mark.parametrize(
    "draw", [lambda _: "a", lambda place: "aaaab"[place % 5], lambda _: RANDOM.choice("a" * 19 + "b")]
)
def test_steps_do_not_grow_with_the_windows_of_few_words(draw: Callable[[int], str]) -> None:
    """Python calls, of which a window of its own would take several."""
    letters = [draw(place) for place in range(12_000)]
    texts = [" ".join(letters[low:high]) for low, high in ((0, 4_000), (4_000, 12_000))]
    calls = Counter[str]()
    sys.setprofile(lambda _, event, __: calls.update([event]))
    try:
        decided = decide(Substrings(10), texts)
    finally:
        sys.setprofile(None)
    assert {place: decision.text for place, decision in decided.items()} == naive(texts, 10)
    assert decided
    assert calls["call"] < 1_000


@pytest.mark.parametrize("change", [{"tokens": 1}, {"action": "hide"}, {"share": 0.0}, {"share": 1.5}])
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ProblemError) as caught:
        Substrings(**change)  # pyright: ignore[reportArgumentType]
    assert caught.value.problems[0].code == "invalid-value"
