"""Which settings of a `tokenizer.json` would lose, add or change text, or draw tokens at random.

A BPE tokenizer keeps every byte of every text if each of the 256 bytes has a symbol, its pre-tokenizers only cut, and
nothing else touches the text. All of that is written in the file, so it is read there: a sample of text would miss the
characters that it lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import pre_tokenizers

from penstock.hooks.problems import Problem

BYTE_LEVEL = ("ByteLevel",)
"""The decoder of byte-level BPE."""
BYTE_FALLBACK = ("ByteFallback", "Fuse", "Strip")
"""The decoder of llama2.c's tokenizers, as `llama2c` writes it: bytes are tokens only where no piece fits."""

_CUTS = {"ByteLevel", "Digits", "FixedLength", "Punctuation", "Split", "UnicodeScripts"}
_PREPEND_SPACE = {"type": "Prepend", "prepend": " "}

Finding = tuple[str, str]
"""What is wrong, and what to do."""


def decoder_kinds(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The types of the decoder and its parts: `BYTE_LEVEL`, `BYTE_FALLBACK` or something else."""
    decoder: dict[str, Any] = document.get("decoder") or {"type": "none"}
    return tuple(part["type"] for part in decoder.get("decoders", [decoder]))


def pre_tokenizer_parts(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    before = document.get("pre_tokenizer")
    return list(parts_of(before, "pretokenizers")) if before else []


def lossless_problems(document: Mapping[str, Any], end_of_text: str, where: str) -> list[Problem]:
    """Everything in a parsed `tokenizer.json` of a BPE model that keeps it from encoding each text as its bytes."""
    found = [
        *_call_settings(document),
        *_model(document["model"]),
        *_normalizer(document),
        *_pre_tokenizers(document),
        *_alphabet(document),
        *_ids(document),
        *_added_tokens(document, end_of_text),
    ]
    return [Problem("unusable-tokenizer", what, where, fix) for what, fix in found]


def _call_settings(document: Mapping[str, Any]) -> Iterator[Finding]:
    """Settings of somebody's last call, which `tokenizers` saves in the file."""
    truncation, padding = document.get("truncation"), document.get("padding")
    if truncation:
        limit = truncation.get("max_length")
        yield f"it cuts texts off after {limit} tokens (`truncation`)", "set `truncation` to null in the file"
    if padding:
        yield "it pads texts (`padding`)", "set `padding` to null in the file"


def _model(model: Mapping[str, Any]) -> Iterator[Finding]:
    if model.get("dropout"):
        what = f"it merges at random (`model.dropout` is {model['dropout']})"
        yield what, "set `dropout` to null in the file"
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            yield f"not lossless: it adds '{model[name]}' to texts (`model.{name}`)", "use a tokenizer without it"


def _normalizer(document: Mapping[str, Any]) -> Iterator[Finding]:
    normalizer = document.get("normalizer")
    parts = list(parts_of(normalizer, "normalizers")) if normalizer else []
    allowed = [_PREPEND_SPACE] if decoder_kinds(document) == BYTE_FALLBACK else []
    if parts != allowed:
        names = "+".join(part["type"] for part in parts) or "none"
        yield f"not lossless: its normalizer ({names}) changes texts", "use one without a normalizer"


def _pre_tokenizers(document: Mapping[str, Any]) -> Iterator[Finding]:
    parts = pre_tokenizer_parts(document)
    for part in parts:
        kind = part["type"]
        removes = part.get("behavior") == "Removed" or kind not in _CUTS
        if removes or (kind == "ByteLevel" and part.get("add_prefix_space")):
            verb = "drops or changes" if removes else "adds"
            yield f"not lossless: its pre-tokenizer {kind} {verb} characters", "use one that only cuts texts"
    bytewise = [part for part in parts if part["type"] == "ByteLevel"]
    expected = 1 if decoder_kinds(document) == BYTE_LEVEL else 0
    if len(bytewise) != expected:
        what = f"not lossless: {len(bytewise)} of its pre-tokenizers turn text into bytes, but its decoder undoes"
        yield f"{what} {expected}", "use a byte-level tokenizer"


def _alphabet(document: Mapping[str, Any]) -> Iterator[Finding]:
    """Byte-level BPE writes each byte as a character of its own alphabet."""
    if decoder_kinds(document) == BYTE_LEVEL:
        symbols = set(pre_tokenizers.ByteLevel.alphabet())
    else:
        symbols = {f"<0x{byte:02X}>" for byte in range(256)}
        if not document["model"].get("byte_fallback"):
            yield "not lossless: it drops characters that it does not know", "set `model.byte_fallback` to true"
    lacking = symbols - document["model"]["vocab"].keys()
    if lacking:
        what = f"not lossless: its vocabulary lacks {len(lacking)} of the 256 bytes, so it drops characters"
        yield what, "train it with all of them as its initial alphabet"


def _ids(document: Mapping[str, Any]) -> Iterator[Finding]:
    vocabulary = document["model"]["vocab"]
    named = {token["content"]: token["id"] for token in document.get("added_tokens") or ()}
    for token in sorted(name for name in vocabulary.keys() & named.keys() if vocabulary[name] != named[name]):
        yield f"its token '{token}' has two ids", "give it one id, in `added_tokens` and in the vocabulary"
    ids = list({**vocabulary, **named}.values())
    if len(set(ids)) < len(ids):
        yield f"not lossless: {len(ids) - len(set(ids))} tokens have the id of another one", "give each its own id"
    if max(*ids, *vocabulary.values()) >= 2 * len(ids) + 2**16:  # published vocabularies have gaps of a few hundred ids
        yield f"it has {len(ids)} tokens, but ids up to {max(ids)}", "number its tokens without large gaps"


def _added_tokens(document: Mapping[str, Any], end_of_text: str) -> Iterator[Finding]:
    """Added tokens that are not special are found in text. Special ones are not, so they cannot harm it."""
    special = False
    for token in document.get("added_tokens") or ():
        special |= token["content"] == end_of_text and token["special"]
        if not token["special"] and (token["lstrip"] or token["rstrip"]):
            what = f"not lossless: its token '{token['content']}' takes the white space beside it"
            yield what, "set its `lstrip` and `rstrip` to false in the file"
    if not special:
        what = f"'{end_of_text}' is not one of its special tokens, so texts could spell it"
        yield what, f"list '{end_of_text}' in `added_tokens` with `special` true"


def parts_of(part: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The part, or the parts of a sequence, however deep."""
    for inner in part.get(name, ()):
        yield from parts_of(inner, name)
    if name not in part:
        yield dict(part)
