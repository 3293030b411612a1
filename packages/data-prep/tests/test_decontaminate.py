"""Laws of decontamination, against a set of tuples of words."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.cleaning.decontaminate import Decontamination, Overlap, decontamination
from penstock.data_prep.cleaning.normalise import Normaliser
from penstock.hooks.contracts import Decision, Document
from penstock.hooks.problems import ProblemError

QUESTION = "How many of the 48 friends did Natalia, who sold clips in April, sell half as many?"
normalise = Normaliser()


def word_list(text: str) -> list[str]:
    return normalise(unicodedata.normalize("NFC", text)).split()


def grams(text: str, length: int) -> set[tuple[str, ...]]:
    words = word_list(text)
    return {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}


UNSEEN = "\u034f\ufe0f\u200b\u3164\uffa0"
letters = st.sampled_from(
    ["a", "A", "ä", "a\u0308", "ΑΣ", "İ", "=\u0338", ",", "x-y", " ", "  ", "\n", "\f", "j\u030c", "\xad", *UNSEEN]
)
prose = st.lists(letters, max_size=25).map("".join)


@settings(deadline=None)
@given(st.lists(prose, max_size=3), prose)
def test_a_document_goes_if_it_shares_words_with_an_evaluation(evaluation: Sequence[str], text: str) -> None:
    stage = Decontamination([("task", each) for each in evaluation], words=4, shortest=2)
    looked_for = set[tuple[str, ...]]()
    for each in evaluation:
        count = len(word_list(each))
        looked_for |= grams(each, min(count, 4)) if count >= 2 else set()
    shared = set.union(*(grams(text, n) for n in (2, 3, 4))) & looked_for
    assert (stage.judge(Document(text, "")) is not None) == bool(shared)
    composed = unicodedata.normalize("NFC", text)
    found = " | ".join(composed[overlap.start : overlap.stop] for overlap in stage.overlaps(text))
    assert all(set(gram) <= set(word_list(found)) for gram in shared)
    assert bool(found) == bool(shared)


@settings(deadline=None)
@given(st.lists(prose, max_size=3), prose)
def test_cleaning_again_changes_nothing(evaluation: Sequence[str], text: str) -> None:
    stage = Decontamination([("task", each) for each in evaluation], words=3, shortest=2, action="cut")
    decision = stage.judge(Document(text, ""))
    if decision is not None and decision.text is not None:
        assert stage.judge(Document(decision.text, "")) is None


def test_every_planted_overlap_is_found_and_its_place_is_listed() -> None:
    draw = random.Random(0)
    questions = [" ".join(f"Q{draw.randrange(50)}" for _ in range(draw.randrange(8, 60))) for _ in range(200)]
    stage = Decontamination((f"task-{number % 5}", question) for number, question in enumerate(questions))
    for number, question in enumerate(questions):
        words = question.split()
        length = min(len(words), 13)
        start = draw.randrange(len(words) - length + 1)
        planted = "; ".join(words[start : start + length]).lower()
        before = " ".join(f"w{draw.randrange(1000)}" for _ in range(draw.randrange(300)))
        assert stage.judge(Document(before, "")) is None
        overlaps = stage.overlaps(f"{before} ({planted}) and more")
        begin = len(before) + 1
        assert overlaps == [Overlap((f"task-{number % 5}",), begin, begin + len(planted) + 2)]


def test_a_decision_shows_evaluation_place_and_words() -> None:
    text = f"A page.\n\n{QUESTION.upper()}\n\nIts answer."
    assert Decontamination([("gsm8k", QUESTION)]).judge(Document(text, "")) == Decision(
        "decontaminate/gsm8k", f"gsm8k at character 9, '{QUESTION.upper()}'"
    )
    cut = Decontamination([("gsm8k", QUESTION)], action="cut").judge(Document(text, ""))
    assert cut is not None
    assert cut.text == "A page.\n\n\f\n\nIts answer."


@pytest.mark.parametrize(
    "hidden",
    [
        QUESTION.replace(" ", "\f", 5),  # the pages of a PDF
        QUESTION.replace("a", "a\xad"),  # soft hyphens
        QUESTION.replace(" ", " \u200b"),
        QUESTION.replace(" ", "\ufe0f "),
        QUESTION.replace(" ", "\u3164"),
        QUESTION.replace(" ", "\u200b"),
        QUESTION.replace(" ", "\x00"),
        "".join(chr(ord(each) + 0xFEE0) if each.isalnum() else each for each in QUESTION),  # full width
    ],
    ids=["form feed", "soft hyphen", "space and zero width", "selector", "filler", "zero width", "nul", "full width"],
)
def test_what_is_not_seen_hides_no_overlap(hidden: str) -> None:
    stage = Decontamination([("gsm8k", QUESTION)], action="cut")
    decision = stage.judge(Document(f"Before {hidden} after", ""))
    assert decision is not None
    assert decision.text == "Before \f after"


def test_separators_that_are_not_seen_bound_what_is_cut() -> None:
    text = f"Before {QUESTION} after".replace(" ", "\u200b")
    decision = Decontamination([("gsm8k", QUESTION)], action="cut").judge(Document(text, ""))
    assert decision is not None
    assert decision.text == "Before\u200b\f\u200bafter"


def test_what_a_cut_brings_together_is_cut_too() -> None:
    inner = " ".join(f"w{number}" for number in range(13))
    stage = Decontamination([("inner", inner), ("gsm8k", QUESTION)], action="cut")
    middle = QUESTION.index("friends")
    decision = stage.judge(Document(f"Ha. {QUESTION[:middle]}{inner} {QUESTION[middle:]} Ho.", ""))
    assert decision is not None
    assert decision.text == "Ha. \f Ho."


def test_an_overlap_names_every_evaluation_that_has_its_words() -> None:
    stage = Decontamination([("one", QUESTION), ("two", f"Please say: {QUESTION}"), ("one", QUESTION)])
    assert [overlap.names for overlap in stage.overlaps(QUESTION)] == [("one", "two")]


def test_characters_of_chinese_are_words() -> None:
    question = "如果一个球拍和一个球一共一百一十元"
    stage = Decontamination([("math", question)])
    assert stage.overlaps(f"题目 {question}。") == [Overlap(("math",), 3, 3 + len(question))]
    sounds = "がぎぐげござじずぜぞだぢづ"
    apart = "".join(
        each if at % 2 else f"{unicodedata.normalize('NFD', each)[0]}\uff9e" for at, each in enumerate(sounds)
    )
    for hidden in (apart, apart.replace("\uff9e", "\ufe00\uff9e"), "".join(f"{each}\U000e0100" for each in sounds)):
        assert Decontamination([("kana", sounds)]).overlaps(hidden) == [Overlap(("kana",), 0, len(hidden))]


def test_short_texts_are_found_whole_and_shorter_ones_counted() -> None:
    stage = Decontamination(
        [("quiz", "Who wrote it?"), ("quiz", "Yes"), ("other", "one two three four five six seven 8")]
    )
    assert stage.unchecked == {"quiz": 2}
    assert stage.told == {"texts of quiz that are too short to look for": 2}
    assert stage.overlaps("Who wrote it? one two three four five six seven") == []
    assert stage.overlaps("and one two three four five six seven 8 9") == [Overlap(("other",), 4, 39)]


def test_evaluations_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.test.jsonl").write_text(json.dumps({"text": QUESTION}), encoding="utf-8")
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"text": "Who wrote it?"}), encoding="utf-8")
    stage = decontamination([tmp_path])
    assert [overlap.names for overlap in stage.overlaps(QUESTION)] == [("gsm8k",)]
    assert stage.unchecked == {"quiz": 1}
    with pytest.raises(ProblemError, match="not found"):
        decontamination([tmp_path / "other"])


def test_settings_out_of_range_are_refused() -> None:
    for change in ({"words": 7}, {"shortest": 0}, {"action": "hide"}):
        with pytest.raises(ProblemError) as caught:
            Decontamination([], **change)  # pyright: ignore[reportArgumentType]
        assert caught.value.problems[0].code == "invalid-value"
