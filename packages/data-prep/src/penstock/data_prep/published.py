"""The tokenizer of a published model, used unchanged.

Training needs a tokenizer that is byte-level and lossless (`tokenizer.BpeTokenizer`). Most published ones are not:
OLMoE's and Qwen's compose characters (NFC), Mixtral's is SentencePiece, and few have our end-of-text token. A model is
measured with its own tokenizer, whatever it does to text; bytes are then counted on the text, not on the tokens.

Shape suffixes: N tokens, C characters.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers.decoders import DecodeStream

from penstock.hooks.inputs import expanded
from penstock.hooks.problems import Problem, ProblemError

Integers = NDArray[np.int64]

_CONTEXT = 8  # tokens before a text that decide how its first token is decoded; one is enough for a leading space


class PublishedTokenizer:
    """Any tokenizer of the `tokenizers` library.

    A text is encoded with the special tokens that the tokenizer itself puts around it, because the model was trained
    with them; a model that we trained was not (`adds_tokens` is False). Text that spells a special token stays text.
    `serialized` is the tokenizer as the library writes it, and `hash` its SHA-256.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, adds_tokens: bool = True) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.adds_tokens = adds_tokens
        self.serialized = tokenizer.to_str().encode()
        self.hash = hashlib.sha256(self.serialized).hexdigest()

    @classmethod
    def of_model(cls, model: str) -> PublishedTokenizer:
        """Loads the tokenizer of a folder or of a hub name; raises `ProblemError` if it is missing."""
        folder = expanded(model)
        return cls(_of_folder(folder) if os.path.isdir(folder) else _of_hub(model))

    @classmethod
    def of_trained(cls, serialized: bytes) -> PublishedTokenizer:
        """The tokenizer of a model that we trained, from the content of its `tokenizer.json`."""
        return cls.of_serialized(serialized, adds_tokens=False)

    @classmethod
    def of_serialized(cls, serialized: bytes, *, adds_tokens: bool) -> PublishedTokenizer:
        """From the content of a `tokenizer.json`."""
        return cls(tokenizers.Tokenizer.from_str(serialized.decode()), adds_tokens=adds_tokens)

    def prompt(self, text: str, *, spelled: bool = False) -> list[int]:
        """The tokens of a prompt. With `spelled`, as for a text made by a chat template, text that spells a special
        token is that token, and the tokenizer puts none of its own around it."""
        if not spelled:
            return self._tokenizer.encode(text, add_special_tokens=self.adds_tokens).ids
        self._tokenizer.encode_special_tokens = False
        try:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        finally:
            self._tokenizer.encode_special_tokens = True

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token, as the vocabulary writes it."""
        return max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)))

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones included; bytes that are no characters are U+FFFD."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)

    def stream(self, context: Sequence[int]) -> TextStream:
        """Decodes the tokens that follow `context` one by one."""
        return TextStream(self._tokenizer, context)

    def encode(self, text: str) -> tuple[Integers, Integers]:
        """The tokens [N] of a text, and the UTF-8 bytes [N] that each adds to those before it.

        Every byte of the text is counted once: dropped bytes count for the next token, or for the last one at the end.
        If several tokens encode one character, its bytes count for the first of them.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=self.adds_tokens)
        token_N = np.array(encoding.ids, dtype=np.int64)
        end_N = np.array([end for _, end in encoding.offsets], dtype=np.int64)
        upto_C = np.concatenate([[0], np.cumsum(_utf8_widths(text))])
        upto_N = upto_C[np.maximum.accumulate(end_N)]
        if len(upto_N):
            upto_N[-1] = upto_C[-1]
        return token_N, np.diff(upto_N, prepend=0)


class TextStream:
    """The text of tokens as they come: whole characters only, and no special tokens.

    The pieces, joined, are what decoding all tokens at once gives: the bytes of one character may lie in several
    tokens, and whether a token begins with a space may depend on the token before it.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, context: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._token_N = list(context[-_CONTEXT:])
        if tokenizer.decode(self._token_N).endswith("\ufffd"):  # the stream would wait for the rest of a character
            self._token_N = []
        self._before = len(tokenizer.decode(self._token_N))
        self._shown = 0
        self._stream = DecodeStream(ids=list(self._token_N), skip_special_tokens=True)

    def push(self, token: int) -> str:
        """The text that is complete with this token."""
        self._token_N.append(token)
        piece = self._stream.step(self._tokenizer, token) or ""
        self._shown += len(piece)
        return piece

    def finish(self) -> str:
        """What is left: bytes that no token completed to a character, as U+FFFD."""
        return self._tokenizer.decode(self._token_N)[self._before + self._shown :]


def _of_folder(folder: Path) -> tokenizers.Tokenizer:
    file = folder / "tokenizer.json"
    if not file.is_file():
        what, fix = "the model has no tokenizer.json", "save its tokenizer there, for example with save_pretrained"
        raise ProblemError(Problem("missing-file", what, str(folder), fix))
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        what = f"its tokenizer.json cannot be read ({_line(error)})"
        raise ProblemError(Problem("damaged-file", what, str(folder), "save it again")) from error


def _of_hub(name: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_pretrained(name)
    except Exception as error:  # of the hub's client, of the network, and the library's bare Exception
        what = f"folder not found, and no tokenizer of that name on the hub ({_line(error)})"
        fix = "check the name, or use a local folder if the hub cannot be reached"
        raise ProblemError(Problem("missing-model", what, name, fix)) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _utf8_widths(text: str) -> Integers:
    """UTF-8 bytes of each character."""
    code_C = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return np.searchsorted(np.array([0x80, 0x800, 0x10000]), code_C, side="right").astype(np.int64) + 1
