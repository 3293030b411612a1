"""Byte-level BPE: training, loading, and the rules that make it lossless.

The `tokenizers` library trains and encodes. This module adds: special tokens have fixed ids, text that spells a special
token stays text, pair counts cannot overflow, and long documents are cut only where that changes no token.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

from penstock.data_prep.llama2c import convert_llama2c
from penstock.data_prep.lossless import (
    BYTE_FALLBACK,
    BYTE_LEVEL,
    decoder_kinds,
    lossless_problems,
    parts_of,
    pre_tokenizer_parts,
)
from penstock.hooks.inputs import expanded
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError

END_OF_TEXT = "<|endoftext|>"

# Ids 0 to 15 in every vocabulary. The names are GLM-4's; the reserved ones let a fine-tune add roles without new rows.
SPECIALS = (
    END_OF_TEXT,
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    *(f"<|reserved_{number}|>" for number in range(5, 16)),
)

# The split of GPT-4 (cl100k_base), which GLM-4 uses unchanged: contractions; a word with one leading character; up to
# three digits; punctuation with the newlines after it; runs of newlines; runs of spaces, whose last space goes to the
# word that follows. Indentation of code stays one piece, while GPT-2's pattern takes it apart.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# `tokenizers` counts pairs in 32 bits and silently drops the most frequent pair past 2**31 (its issue 2058).
MAXIMUM_TRAINING_BYTES = 2**31 - 1

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

# A net under the rules of `lossless`: white space, composed characters, case, text that spells special tokens.
_PROBE = f"A  e\u0301 \ufb01 \u0130 東京\u3000\U0001f600\r\n\t\0 don 't , <s>{END_OF_TEXT} "

_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": END_OF_TEXT,
    "pad_token": END_OF_TEXT,
    "clean_up_tokenization_spaces": False,
}


class BpeTokenizer:
    """A BPE tokenizer over bytes: `decode(encode(text)) == text` for every text.

    `vocabulary_size` is the largest id plus one, `end_of_text` the id of `<|endoftext|>`, `hash` the SHA-256 of
    `tokenizer.json`. `encode` never yields a special token: text that spells one is encoded as the text it is.
    """

    def __init__(self, serialized: bytes, where: str = "tokenizer.json") -> None:
        """`serialized` is the content of a `tokenizer.json`; raises `ProblemError` with everything that keeps it from
        encoding each text as exactly its bytes, such as truncation, padding or a normalizer."""
        self._tokenizer, document = _parse(serialized, where)
        self._tokenizer.encode_special_tokens = True
        self.end_of_text: int = self._tokenizer.get_vocab(with_added_tokens=True)[END_OF_TEXT]
        self.vocabulary_size: int = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.hash = hashlib.sha256(serialized).hexdigest()
        self._where = where
        self._is_byte_level = decoder_kinds(document) == BYTE_LEVEL
        self._splits_as_ours = _splits_as_ours(document)
        if any(self.decode(self.encode(text)) != text for text in (_PROBE, f" {_PROBE}")):
            what = "not lossless: encoding and decoding changes a text"
            raise ProblemError(Problem("unusable-tokenizer", what, where, "use one without a normalizer"))

    @classmethod
    def load(cls, path: str | Path) -> BpeTokenizer:
        """Loads any file or folder that `read_tokenizer` reads."""
        return cls(read_tokenizer(path), str(path))

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Like `encode`, on all cores."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def parts(self, text: str) -> Iterator[str]:
        """The text, cut only where that changes no token: the tokens of the parts, joined, are its tokens."""
        return segments(text) if self._splits_as_ours else iter((text,))

    def decode(self, tokens: Sequence[int]) -> str:
        """Special tokens are spelled out; bytes that are not valid UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)

    def require_every_byte(self, token_N: np.ndarray, text: bytes) -> None:
        """Raises `ProblemError` if the tokens of a text do not hold exactly its bytes."""
        space = 0 if self._is_byte_level or not text else 1
        held = int(self._byte_lengths[token_N].sum()) - space
        if held != len(text):
            start = text[:40].decode(errors="ignore")
            what = f"its tokens hold {held} of the {len(text)} bytes of the text that begins with {start!r}"
            raise ProblemError(Problem("lossy-tokenizer", what, self._where, "use a byte-level tokenizer"))

    def byte_lengths(self) -> np.ndarray:
        """Bytes of each token, int64 [V]; 0 for special tokens. Bits per byte divides by their sum over a text.

        The space that a llama2.c tokenizer puts before a text counts, so its sum is 1 too large for each document.
        """
        return self._byte_lengths.copy()

    @cached_property
    def _byte_lengths(self) -> np.ndarray:
        return bytes_of_tokens(self._tokenizer, byte_level=self._is_byte_level)


def bytes_of_tokens(tokenizer: tokenizers.Tokenizer, *, byte_level: bool, space: str = " ") -> np.ndarray:
    """Bytes of each token, int64 [V]; 0 for special tokens. Tokens that are not byte-level write a space as `space`."""
    lengths = np.zeros(1 + max(tokenizer.get_vocab(with_added_tokens=True).values()), dtype=np.int64)
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        if byte_level:
            lengths[index] = len(token)  # its alphabet writes each byte as one character
        else:
            lengths[index] = 1 if _BYTE.fullmatch(token) else len(token.replace(space, " ").encode())
    for index, token in tokenizer.get_added_tokens_decoder().items():
        lengths[index] = 0 if token.special else len(token.content.encode())
    return lengths


def _parse(serialized: bytes, where: str) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    try:
        text = serialized.decode()
        document = parse_json(text)
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        what = f"not a tokenizer of the `tokenizers` library ({error})"
        raise ProblemError(Problem("damaged-file", what, where, "save or download it again")) from error
    unusable = _unusable(tokenizer, document)
    problems = [Problem("unusable-tokenizer", unusable, where, "use a byte-level BPE tokenizer")] if unusable else []
    problems = problems or lossless_problems(document, END_OF_TEXT, where)
    if problems:
        raise ProblemError(problems)
    return tokenizer, document


def _unusable(tokenizer: tokenizers.Tokenizer, document: Mapping[str, Any]) -> str | None:
    """Why this is not the kind of tokenizer whose losses can be told from its file."""
    if not isinstance(tokenizer.model, models.BPE):
        return f"its model is {type(tokenizer.model).__name__}, not BPE"
    kinds = decoder_kinds(document)
    if kinds not in (BYTE_LEVEL, BYTE_FALLBACK):
        return f"not byte-level (its decoder is {'+'.join(kinds)})"
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        return f"the tokenizer has no token '{END_OF_TEXT}'"
    return None


def _splits_as_ours(document: Mapping[str, Any]) -> bool:
    """Whether no token of any text crosses a cut of `segments`."""
    first, *_ = *pre_tokenizer_parts(document), {}
    ours = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    lines = any("\n" in token["content"] for token in document["added_tokens"] if not token["special"])
    return first == ours and not lines


def read_tokenizer(path: str | Path) -> bytes:
    """The content of a `tokenizer.json`: that file, the one in a folder, or one made from a llama2.c `.bin`."""
    given = expanded(path)
    file = given / "tokenizer.json" if given.is_dir() else given
    try:
        data = file.read_bytes()
    except OSError as error:
        problem = Problem("missing-file", f"the tokenizer cannot be read ({error.strerror})", str(file))
        raise ProblemError(problem) from error
    return convert_llama2c(data, str(file), end_of_text=END_OF_TEXT) if file.suffix == ".bin" else data


def train_tokenizer(
    texts: Iterable[str], *, vocabulary_size: int, specials: Sequence[str] = SPECIALS
) -> tokenizers.Tokenizer:
    """Byte-level BPE over `texts`; the same texts give the same tokenizer.

    Ids: `specials` from 0 on in their order, then the 256 bytes, then merges by rank. Pairs that occur once are not
    merged, so a small text gives fewer than `vocabulary_size` tokens. Raises `ProblemError` if the vocabulary has no
    room for the bytes, or the texts are longer than `MAXIMUM_TRAINING_BYTES`.
    """
    smallest = 256 + len(specials)
    if vocabulary_size < smallest:
        what = f"a vocabulary of {vocabulary_size} is smaller than 256 bytes and {len(specials)} special tokens"
        raise ProblemError(Problem("invalid-value", what, "vocabulary_size", f"use at least {smallest}"))
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_bounded(texts), trainer)
    return tokenizer


def _bounded(texts: Iterable[str]) -> Iterator[str]:
    total = 0
    for text in texts:
        total += len(text.encode())
        if total > MAXIMUM_TRAINING_BYTES:
            what = f"more than {MAXIMUM_TRAINING_BYTES} bytes to train on: pair counts would overflow"
            raise ProblemError(Problem("invalid-value", what, "tokenizer", "train on a sample"))
        yield text


def sample_pieces(
    texts: Iterable[str], *, total_bytes: int, sample_bytes: int, seed: int, piece: int = 1 << 14
) -> Iterator[str]:
    """Pieces of at most `piece` characters, drawn evenly from all of `texts`: at most `sample_bytes` UTF-8 bytes, or
    all texts if `total_bytes`, the size of `texts`, is not larger.

    Selection sampling (Knuth, The Art of Computer Programming 3.4.2, algorithm S) by bytes: one pass, no memory.
    """
    draw = random.Random(seed)
    remaining, budget = total_bytes, sample_bytes
    for text in texts:
        for start in range(0, len(text), piece):
            part = text[start : start + piece]
            size = len(part.encode())
            if size <= budget and draw.random() * remaining < budget:
                budget -= size
                yield part
            remaining -= size


# Narrower than \S: engines disagree on which control characters are space.
_LINE_START = re.compile(r"\n(?=\w|[!-~])")


def segments(text: str, length: int = 1 << 18) -> Iterator[str]:
    """Cuts a text into parts of `length` characters or a little more; their tokens, joined, are the text's tokens.

    `SPLIT` always ends a piece between a newline and a letter, digit or punctuation, so no merge crosses a cut. A file
    that is one huge document is therefore encoded on all cores, and the encoder holds the records of one batch only.
    """
    start = 0
    while start < len(text):
        cut = _LINE_START.search(text, start + length)
        end = cut.end() if cut else len(text)
        yield text[start:end]
        start = end


def write_tokenizer(tokenizer: tokenizers.Tokenizer) -> dict[str, bytes]:
    """The files of a tokenizer; see `tokenizer_files`."""
    return tokenizer_files(tokenizer.to_str(pretty=True).encode())


def beginning_with_end_of_text(serialized: bytes, *, ending: bool = False) -> bytes:
    """A `tokenizer.json` that puts the end-of-text token before a text, as training did: each document follows the end
    of another. With `ending` it stands behind each text too, and the second of a pair is of another type, as encoders
    are trained. Of what the file itself put around a text, nothing is left, because training did not use that."""
    tokenizer, document = tokenizers.Tokenizer.from_str(serialized.decode()), parse_json(serialized.decode())
    single, pair = f"{END_OF_TEXT} $A", f"{END_OF_TEXT} $A {END_OF_TEXT}:1 $B:1"
    if ending:
        single, pair = f"{single} {END_OF_TEXT}", f"{single} {END_OF_TEXT} $B:1 {END_OF_TEXT}:1"
    template = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
    )
    after = document.get("post_processor")
    parts = [part for part in parts_of(after, "processors") if part["type"] == "ByteLevel"] if after else []
    parts.append(json.loads(template.__getstate__()))
    document["post_processor"] = parts[0] if len(parts) == 1 else {"type": "Sequence", "processors": parts}
    return tokenizers.Tokenizer.from_str(json.dumps(document)).to_str(pretty=True).encode()


def tokenizer_files(serialized: bytes) -> dict[str, bytes]:
    """File name to content: `tokenizer.json` and the `tokenizer_config.json` with which `transformers.AutoTokenizer`
    loads the folder."""
    return {
        "tokenizer.json": serialized,
        "tokenizer_config.json": json.dumps(_CONFIG, indent=2).encode(),
    }
