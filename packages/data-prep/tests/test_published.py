"""Tokenizers of others are taken as they are; `transformers` is the independent implementation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from penstock.data_prep.published import PublishedTokenizer
from penstock.data_prep.tokenizer import train_tokenizer
from penstock.hooks.problems import ProblemError

TEXTS = [Path(json.__file__).read_text(encoding="utf-8"), "Zwölf 水車 laufen. " * 20]


def byte_level() -> tokenizers.Tokenizer:
    """As OLMoE's and Qwen's: bytes of composed characters."""
    tokenizer = train_tokenizer(TEXTS, vocabulary_size=500)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def sentencepiece() -> tokenizers.Tokenizer:
    """As Mixtral's: unknown characters fall back to bytes, and a text begins with <s>."""
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=600, special_tokens=specials))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def lossy() -> tokenizers.Tokenizer:
    """White space and case are gone, and many words are one unknown token."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<unk>"]))
    return tokenizer


KINDS = [byte_level, sentencepiece, lossy]
each_kind = pytest.mark.parametrize("kind", [make.__name__ for make in KINDS])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each kind's tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    for make in KINDS:
        (folder / make.__name__).mkdir()
        make().save(str(folder / make.__name__ / "tokenizer.json"))
    return {make.__name__: folder / make.__name__ for make in KINDS}


@pytest.fixture(scope="module")
def published(files) -> dict[str, PublishedTokenizer]:
    return {kind: PublishedTokenizer.of_model(str(folder)) for kind, folder in files.items()}


@each_kind
@settings(deadline=None)
@given(text=st.text())
@example(text="  Zwo\u0308lf 水車\U0001f600 \n\t <s><unk></s> ")
def test_bytes_of_the_tokens_are_those_of_the_text(published, kind: str, text: str) -> None:
    token_N, byte_N = published[kind].encode(text)
    assert token_N.shape == byte_N.shape
    assert (byte_N >= 0).all()
    assert byte_N.sum() == (len(text.encode()) if len(token_N) else 0)


def test_each_token_of_plain_text_counts_the_bytes_that_it_stands_for(published, files) -> None:
    library = tokenizers.Tokenizer.from_file(str(files["byte_level"] / "tokenizer.json"))
    token_N, byte_N = published["byte_level"].encode(TEXTS[0])
    assert byte_N.tolist() == [len(library.decode([token]).encode()) for token in token_N.tolist()]


@each_kind
def test_tokens_are_those_of_transformers(published, files, kind: str) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(files[kind] / "tokenizer.json"))
    for text in TEXTS:
        assert published[kind].encode(text)[0].tolist() == theirs(text)["input_ids"]


def test_text_that_spells_a_special_token_stays_text(published) -> None:
    token_N, byte_N = published["sentencepiece"].encode("<s>")
    assert token_N[0] == 1
    assert 1 not in token_N[1:]
    assert byte_N[0] == 0


def test_a_model_without_a_tokenizer_that_can_be_read_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"has no tokenizer\.json"):
        PublishedTokenizer.of_model(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ProblemError, match=r"its tokenizer\.json cannot be read"):
        PublishedTokenizer.of_model(str(tmp_path))


def streamed(tokenizer: tokenizers.Tokenizer, context: list[int], token_N: list[int]) -> str:
    stream = PublishedTokenizer(tokenizer).stream(context)
    return "".join([*map(stream.push, token_N), stream.finish()])


@settings(deadline=None)
@given(context=st.lists(st.integers(0, 499), max_size=12), token_N=st.lists(st.integers(0, 499), max_size=40))
@example(context=[], token_N=[16 + byte for byte in b"\xf0\x9f\x98"])
def test_any_bytes_streamed_are_the_bytes_decoded_at_once(context: list[int], token_N: list[int]) -> None:
    tokenizer = BYTE_LEVEL
    characters = tokenizer.encode(tokenizer.decode(context)).ids  # a prompt is text, so it ends with a character
    assert streamed(tokenizer, characters, token_N) == tokenizer.decode(token_N)


@settings(deadline=None)
@given(before=st.text(max_size=6), text=st.text(max_size=20))
@example(before="", text="水車 😀")
@example(before="Zwölf", text=" 水車")
def test_a_streamed_text_of_byte_fallback_is_the_text_behind_its_prompt(before: str, text: str) -> None:
    token_N = SENTENCEPIECE.encode(before + text).ids
    context = SENTENCEPIECE.encode(before).ids
    shared = [token for token, other in zip(token_N, context, strict=False) if token == other]
    if shared != context:  # the text changed the prompt's last tokens
        return
    whole = SENTENCEPIECE.decode(token_N)
    assert streamed(SENTENCEPIECE, context, token_N[len(context) :]) == whole[len(SENTENCEPIECE.decode(context)) :]


def test_a_piece_holds_whole_characters_and_no_special_token() -> None:
    stream = PublishedTokenizer(BYTE_LEVEL).stream([0])
    token_N = [BYTE_LEVEL.token_to_id(letter) for letter in "æ°\u00b4"]  # the alphabet of byte-level BPE
    assert [stream.push(token) for token in [*token_N, 0]] == ["", "", "水", ""]
    assert stream.finish() == ""


def test_only_a_spelled_prompt_reads_special_tokens() -> None:
    tokenizer = PublishedTokenizer(BYTE_LEVEL)
    assert 0 not in tokenizer.prompt("<|endoftext|>a")
    assert tokenizer.prompt("<|endoftext|>a", spelled=True) == [0, *tokenizer.prompt("a")]
    assert 0 not in tokenizer.prompt("<|endoftext|>a")
    assert PublishedTokenizer(SENTENCEPIECE).prompt("a")[0] == 1
    assert 1 not in PublishedTokenizer(SENTENCEPIECE).prompt("a", spelled=True)


BYTE_LEVEL, SENTENCEPIECE = train_tokenizer(TEXTS, vocabulary_size=500), sentencepiece()
