"""Laws of the tokenizer. `transformers` is the independent implementation."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import processors

from penstock.data_prep.tokenizer import (
    END_OF_TEXT,
    SPECIALS,
    BpeTokenizer,
    beginning_with_end_of_text,
    sample_pieces,
    segments,
    train_tokenizer,
    write_tokenizer,
)
from penstock.hooks.problems import ProblemError

SOURCES = sorted(Path(json.__file__).parent.glob("*.py"))
TEXTS = [path.read_text(encoding="utf-8") for path in SOURCES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, data in write_tokenizer(train_tokenizer(TEXTS, vocabulary_size=700)).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> BpeTokenizer:
    return BpeTokenizer.load(folder)


# Lines of the characters that the split pattern tells apart, so that cuts and runs are hit often.
LINES = st.lists(st.sampled_from(["\n", " ", "\t", "\r\n", "a", "'s", "12345", "é東", "=-", "\x85", "\x1c", "\u200b"]))


@settings(deadline=None)
@given(text=st.text() | LINES.map("".join))
@example(text="<|endoftext|><|user|>")
@example(text="\0\ud7ff\U0010ffff\n\n x")
def test_decode_inverts_encode_for_any_text(tokenizer: BpeTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(text=st.text() | LINES.map("".join))
def test_byte_lengths_add_up_to_the_bytes_of_the_text(tokenizer: BpeTokenizer, text: str) -> None:
    lengths = tokenizer.byte_lengths()
    assert lengths.shape == (tokenizer.vocabulary_size,)
    assert lengths[tokenizer.encode(text)].sum() == len(text.encode())


@settings(deadline=None)
@given(text=LINES.map("".join), length=st.integers(1, 20))
def test_cut_text_has_the_tokens_of_the_whole(tokenizer: BpeTokenizer, text: str, length: int) -> None:
    parts = list(segments(text, length))
    assert "".join(parts) == text
    assert [token for part in parts for token in tokenizer.encode(part)] == tokenizer.encode(text)


def test_real_text_is_cut_and_keeps_its_tokens(tokenizer: BpeTokenizer) -> None:
    for text in TEXTS:
        parts = list(segments(text, 200))
        assert len(parts) > 1
        assert list(chain.from_iterable(tokenizer.encode_batch(parts))) == tokenizer.encode(text)


def test_text_that_spells_a_special_token_stays_text(tokenizer: BpeTokenizer) -> None:
    specials = set(range(len(SPECIALS)))
    assert specials.isdisjoint(tokenizer.encode("".join(SPECIALS)))
    assert specials.isdisjoint(tokenizer.encode_batch(list(SPECIALS))[0])


def test_specials_have_fixed_ids_and_no_bytes(tokenizer: BpeTokenizer) -> None:
    assert tokenizer.end_of_text == 0
    assert [tokenizer.decode([index]) for index in range(len(SPECIALS))] == list(SPECIALS)
    lengths = tokenizer.byte_lengths()
    assert not lengths[: len(SPECIALS)].any()
    assert (lengths[len(SPECIALS) :] > 0).all()
    assert (lengths[len(SPECIALS) : len(SPECIALS) + 256] == 1).all()


def test_same_texts_give_the_same_tokenizer(folder: Path, tokenizer: BpeTokenizer) -> None:
    again = write_tokenizer(train_tokenizer(TEXTS, vocabulary_size=700))
    assert again == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert tokenizer.hash == hashlib.sha256(again["tokenizer.json"]).hexdigest()
    assert tokenizer.vocabulary_size == 700


def test_transformers_loads_the_folder_and_agrees(folder: Path, tokenizer: BpeTokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    for text in [*TEXTS, "Straße 東京 ' s can't 1234567"]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.eos_token_id == theirs.pad_token_id == tokenizer.end_of_text
    assert theirs.convert_tokens_to_ids(END_OF_TEXT) == tokenizer.end_of_text


@pytest.mark.parametrize(
    "own",
    [
        None,
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        json.loads(processors.TemplateProcessing("<|user|> $A", special_tokens=[("<|user|>", 2)]).__getstate__()),
    ],
)
def test_texts_begin_with_end_of_text_once_whatever_the_file_puts_around_them(
    folder: Path, tokenizer: BpeTokenizer, own: dict[str, Any] | None
) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    written = beginning_with_end_of_text(json.dumps({**document, "post_processor": own}).encode())
    assert beginning_with_end_of_text(written) == written
    begun = tokenizers.Tokenizer.from_str(written.decode())
    text, end = "the gate\n opens 水", tokenizer.end_of_text
    assert begun.encode(text).ids == [end, *tokenizer.encode(text)]
    assert begun.encode(text, "x").ids == [end, *tokenizer.encode(text), end, *tokenizer.encode("x")]
    assert BpeTokenizer(written).encode(text) == tokenizer.encode(text)
    kept = "ByteLevel" in json.dumps(json.loads(written)["post_processor"])
    assert kept == (own is not None and own["type"] == "ByteLevel")


def test_little_text_gives_fewer_tokens_and_still_encodes_everything() -> None:
    tokenizer = BpeTokenizer(write_tokenizer(train_tokenizer(["abab"], vocabulary_size=4096))["tokenizer.json"])
    assert tokenizer.vocabulary_size < 300
    assert tokenizer.decode(tokenizer.encode("東京")) == "東京"


def test_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ProblemError, match="use at least 272"):
        train_tokenizer(TEXTS, vocabulary_size=200)


def test_file_that_is_no_byte_level_tokenizer_is_named(tmp_path: Path, folder: Path) -> None:
    good = (folder / "tokenizer.json").read_bytes()
    path = tmp_path / "tokenizer.json"
    for data, code in (
        (good[:-100], "damaged-file"),
        (b"[]", "damaged-file"),
        (good.replace(b'"type": "ByteLevel"', b'"type": "Fuse"'), "damaged-file"),
        (good.replace(END_OF_TEXT.encode(), b"<|other|>"), "unusable-tokenizer"),
    ):
        path.write_bytes(data)
        with pytest.raises(ProblemError) as caught:
            BpeTokenizer.load(path)
        assert (caught.value.problems[0].code, caught.value.problems[0].where) == (code, str(path))
    with pytest.raises(ProblemError, match="cannot be read"):
        BpeTokenizer.load(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("part", "lossy"),
    [
        ("normalizer", {"type": "NFC"}),
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}),
    ],
)
def test_a_tokenizer_that_changes_text_is_refused(folder: Path, part: str, lossy: dict) -> None:
    document = {**json.loads((folder / "tokenizer.json").read_bytes()), part: lossy}
    with pytest.raises(ProblemError, match="not lossless") as caught:
        BpeTokenizer(json.dumps(document).encode(), "theirs.json")
    assert caught.value.problems[0].where == "theirs.json"


def changed(folder: Path, **parts: Any) -> bytes:
    """The tokenizer with other parts; those of its model are named `model_PART`."""
    document = json.loads((folder / "tokenizer.json").read_bytes())
    for name, value in parts.items():
        if name.startswith("model_"):
            document["model"][name.removeprefix("model_")] = value
        else:
            document[name] = value
    return json.dumps(document).encode()


def refusal(serialized: bytes) -> list[str]:
    with pytest.raises(ProblemError) as caught:
        BpeTokenizer(serialized)
    assert {problem.code for problem in caught.value.problems} == {"unusable-tokenizer"}
    assert all(problem.fix for problem in caught.value.problems)
    return [problem.what for problem in caught.value.problems]


TRUNCATION = {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": "BatchLongest",
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": END_OF_TEXT,
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"truncation": TRUNCATION}, "cuts texts off after 20 tokens"),
        ({"padding": PADDING}, "pads texts"),
        ({"model_dropout": 0.1}, "merges at random"),
        ({"model_end_of_word_suffix": "</w>"}, "adds '</w>'"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "q"}, "content": "Q"}}, r"normalizer \(Replace\)"),
        ({"normalizer": {"type": "Prepend", "prepend": " "}}, r"normalizer \(Prepend\)"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, BYTE_LEVEL]}}, "drops"),
        (
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [
                        {"type": "Split", "pattern": {"String": "q"}, "behavior": "Removed", "invert": False},
                        BYTE_LEVEL,
                    ],
                }
            },
            "pre-tokenizer Split drops",
        ),
        ({"pre_tokenizer": None}, "0 of its pre-tokenizers turn text into bytes"),
    ],
)
def test_what_loses_adds_or_draws_text_is_refused_by_name(folder: Path, parts: dict[str, Any], said: str) -> None:
    (what,) = refusal(changed(folder, **parts))
    assert re.search(said, what)


@pytest.mark.parametrize("stripped", ["lstrip", "rstrip"])
def test_an_added_token_that_takes_the_space_beside_it_is_refused(folder: Path, stripped: str) -> None:
    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours.add_tokens([tokenizers.AddedToken("[SEP]", **{stripped: True})])
    (what,) = refusal(ours.to_str().encode())
    assert "'[SEP]' takes the white space" in what


def test_an_added_token_is_the_bytes_of_its_name(folder: Path) -> None:
    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours.add_tokens([tokenizers.AddedToken("[SEP]")])
    tokenizer = BpeTokenizer(ours.to_str().encode())
    tokens = tokenizer.encode("a  [SEP]  b")
    assert tokenizer.decode(tokens) == "a  [SEP]  b"
    assert tokenizer.byte_lengths()[tokens].sum() == 11


def test_a_vocabulary_that_lacks_bytes_is_refused_whatever_text_it_was_trained_on() -> None:
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, special_tokens=[END_OF_TEXT], show_progress=False)
    theirs.train_from_iterator(["only ASCII"], trainer)
    (what,) = refusal(theirs.to_str().encode())
    assert f"lacks {256 - len(set('only ASCII'))} of the 256 bytes" in what


@pytest.mark.parametrize("added", [[], [{"special": False}]])
def test_an_end_of_text_that_texts_could_spell_is_refused(folder: Path, added: list[dict[str, Any]]) -> None:
    ours = json.loads((folder / "tokenizer.json").read_bytes())["added_tokens"][0]
    (what,) = refusal(changed(folder, added_tokens=[{**ours, **each} for each in added]))
    assert f"'{END_OF_TEXT}' is not one of its special tokens" in what


def test_ids_that_are_shared_or_leave_large_gaps_are_refused(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_bytes())["model"]["vocab"]
    last = max(vocabulary, key=lambda token: vocabulary[token])
    (shared,) = refusal(changed(folder, model_vocab={**vocabulary, last: 300}))
    assert "1 tokens have the id of another one" in shared
    twice = refusal(changed(folder, model_vocab={**vocabulary, "<|reserved_5|>": 700}))
    assert "'<|reserved_5|>' has two ids" in twice[0]
    (far,) = refusal(changed(folder, model_vocab={**vocabulary, last: 2**31}))
    assert f"ids up to {2**31}" in far


def test_everything_that_is_wrong_with_a_tokenizer_is_said_at_once(folder: Path) -> None:
    assert len(refusal(changed(folder, truncation=TRUNCATION, padding=PADDING, model_dropout=0.5))) == 3


def test_a_model_that_is_not_bpe_is_refused(folder: Path) -> None:
    words = {"type": "WordLevel", "vocab": {END_OF_TEXT: 0, "a": 1}, "unk_token": "a"}
    assert refusal(changed(folder, model=words)) == ["its model is WordLevel, not BPE"]


def test_tokens_that_lack_bytes_of_a_text_are_refused(tokenizer: BpeTokenizer) -> None:
    token_N = np.array(tokenizer.encode("caf\xe9 noir"))
    tokenizer.require_every_byte(token_N, "caf\xe9 noir".encode())
    with pytest.raises(ProblemError, match=r"hold \d+ of the 10 bytes of the text that begins with 'caf\xe9 noir'"):
        tokenizer.require_every_byte(token_N[:-1], "caf\xe9 noir".encode())


def test_text_is_cut_up_only_where_the_split_is_known(folder: Path, tokenizer: BpeTokenizer) -> None:
    document = json.loads((folder / "tokenizer.json").read_bytes())
    document["pre_tokenizer"] = document["pre_tokenizer"]["pretokenizers"][1] | {"use_regex": False}
    whole = BpeTokenizer(json.dumps(document).encode())
    text = "A line of words.\n" * 40_000
    assert list(whole.parts(text)) == [text]
    assert len(list(tokenizer.parts(text))) > 1


@settings(deadline=None)
@given(
    texts=st.lists(st.text(max_size=60), max_size=20),
    budget=st.integers(0, 400),
    seed=st.integers(0, 5),
)
def test_sample_keeps_its_budget_and_all_where_it_can(texts: list[str], budget: int, seed: int) -> None:
    total = sum(len(text.encode()) for text in texts)
    drawn = list(sample_pieces(texts, total_bytes=total, sample_bytes=budget, seed=seed, piece=7))
    assert sum(len(piece.encode()) for piece in drawn) <= budget
    if budget >= total:
        assert "".join(drawn) == "".join(texts)
    assert drawn == list(sample_pieces(texts, total_bytes=total, sample_bytes=budget, seed=seed, piece=7))


def test_sample_is_spread_evenly_and_uses_its_budget() -> None:
    texts = [f"{number:04d}" * 25 for number in range(2_000)]
    drawn = "".join(sample_pieces(texts, total_bytes=200_000, sample_bytes=50_000, seed=1, piece=20))
    numbers = np.array([int(drawn[at : at + 4]) for at in range(0, len(drawn), 20)])
    assert len(drawn) == 50_000
    # 2,500 uniform draws from 0..1999: the mean's standard deviation is 11.5, each quarter's share 625 +- 22.
    assert abs(numbers.mean() - 999.5) < 60
    assert all(abs(count - 625) < 110 for count in np.histogram(numbers, bins=4, range=(0, 2_000))[0])
    other = "".join(sample_pieces(texts, total_bytes=200_000, sample_bytes=50_000, seed=2, piece=20))
    assert other != drawn
