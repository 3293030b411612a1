"""Published tokenizers under the contract of tasks; `BpeTokenizer` and the library are the oracles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, processors, trainers

from penstock.data_prep.hub_tokenizer import HubTokenizer
from penstock.data_prep.tokenizer import BpeTokenizer, train_tokenizer
from penstock.hooks.problems import ProblemError

TEXT = Path(json.__file__).read_text(encoding="utf-8")


def ours() -> bytes:
    return train_tokenizer([TEXT], vocabulary_size=500).to_str().encode()


def sentencepiece() -> bytes:
    """As Llama's: unknown characters fall back to bytes, and a space is written as another character."""
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=600, special_tokens=specials))
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]  # bytes are plain tokens, as in published files
    return json.dumps(document).encode()


def test_a_tokenizer_of_ours_is_read_alike() -> None:
    strict, found = BpeTokenizer(ours()), HubTokenizer(ours(), None)
    assert found.encode(TEXT) == strict.encode(TEXT)
    assert found.decode(found.encode(TEXT)) == TEXT
    assert found.byte_lengths().tolist() == strict.byte_lengths().tolist()
    assert (found.end_of_text, found.vocabulary_size, found.hash) == (
        strict.end_of_text,
        strict.vocabulary_size,
        strict.hash,
    )
    assert found.lossless


def test_bytes_of_sentencepiece_tokens_are_those_of_the_text() -> None:
    found = HubTokenizer(sentencepiece(), 2)
    tokens = found.encode(TEXT + " \u6771")
    assert found.byte_lengths()[tokens].sum() == len((TEXT + " \u6771").encode())
    assert found.decode(tokens) == TEXT + " \u6771"
    assert found.encode("</s>") != [2]


@pytest.mark.parametrize(
    ("puts", "config", "expected"),
    [
        (False, {}, (2, False)),  # the end of the text before
        (False, {"bos_token": "<s>"}, (1, False)),
        (False, {"bos_token": {"content": "<s>"}, "add_bos_token": True}, (1, True)),
        (True, {}, (1, True)),
        (True, {"bos_token": "<s>", "add_bos_token": False}, (1, False)),
        (True, {"bos_token": None}, (1, True)),
    ],
)
def test_what_begins_a_text_is_what_the_tokenizer_or_its_config_says(tmp_path, puts, config, expected) -> None:
    tokenizer = tokenizers.Tokenizer.from_str(sentencepiece().decode())
    if puts:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = HubTokenizer.load(tmp_path, 2)
    assert (found.begin_of_text, found.always_begins) == expected
    assert found.encode("gate")[0] != 1


def test_a_tokenizer_that_composes_characters_says_so() -> None:
    tokenizer = tokenizers.Tokenizer.from_str(ours().decode())
    tokenizer.normalizer = normalizers.NFC()
    assert not HubTokenizer(tokenizer.to_str().encode(), None).lossless


@pytest.mark.parametrize("end", [None, 600, -1])
def test_the_token_that_ends_a_text_is_in_the_vocabulary(end: int | None) -> None:
    with pytest.raises(ProblemError, match=r"ends a text.*eos_token_id"):
        HubTokenizer(sentencepiece(), end)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ProblemError, match="not a tokenizer"):
        HubTokenizer.load(tmp_path, None)
