"""The tokenizer of a published model, as tasks ask for it: text to tokens and back.

A task puts texts together itself, so nothing is put around them here. `published.PublishedTokenizer` reads one text as
the model was trained to see it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tokenizers

from penstock.data_prep.chat_template import special_tokens, tokenizer_config
from penstock.data_prep.lossless import BYTE_LEVEL, decoder_kinds
from penstock.data_prep.tokenizer import END_OF_TEXT, bytes_of_tokens, read_tokenizer
from penstock.hooks.json_text import parse_json
from penstock.hooks.problems import Problem, ProblemError

SPACE = "\u2581"
"""How SentencePiece writes a space in a token."""

_PROBE = "A  e\u0301 \ufb01 \u6771\u4eac\u3000\U0001f600\r\n\t don 't , "


class HubTokenizer:
    """Any tokenizer of the `tokenizers` library, used unchanged. Text that spells a special token stays text.

    `begin_of_text` stands before a text with nothing before it, and before every text if the model `always_begins`, as
    Llama does. `hash` is the SHA-256 of `tokenizer.json`. `lossless` says whether decoding gives each text back: if it
    does not, `byte_lengths` are those of the text that decoding gives.
    """

    def __init__(
        self,
        serialized: bytes,
        end_of_text: int | None,
        where: str = "tokenizer.json",
        config: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """`end_of_text` is the token that the model ends a text with; None takes `<|endoftext|>`. `config` is that of
        `tokenizer_config.json`. Raises `ProblemError` if the file cannot be read, and if no token ends a text."""
        try:
            self._document = parse_json(serialized.decode())
            self._tokenizer = tokenizers.Tokenizer.from_str(serialized.decode())
        except Exception as error:  # the library raises bare Exception
            what = f"not a tokenizer of the `tokenizers` library ({' '.join(str(error).split())})"
            raise ProblemError(Problem("damaged-file", what, where, "save or download it again")) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.vocabulary_size: int = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.end_of_text: int = self._ends(end_of_text, where)
        self.begin_of_text, self.always_begins = self._begins(config)
        self.hash = hashlib.sha256(serialized).hexdigest()

    @classmethod
    def load(cls, path: Path, end_of_text: int | None) -> HubTokenizer:
        """Reads a `tokenizer.json`, or the one in a folder."""
        folder = path if path.is_dir() else path.parent
        return cls(read_tokenizer(path), end_of_text, str(path), tokenizer_config(folder))

    def _ends(self, given: int | None, where: str) -> int:
        end = self._tokenizer.token_to_id(END_OF_TEXT) if given is None else given
        if end is None or not 0 <= end < self.vocabulary_size:
            what = "no token ends a text" if end is None else f"the token {end}, which ends a text, is not in it"
            fix = "set eos_token_id in config.json to the token that ends a text"
            raise ProblemError(Problem("unusable-tokenizer", what, where, fix))
        return end

    def _begins(self, config: Mapping[str, Any]) -> tuple[int, bool]:
        """The token before a text, and whether it stands before each: what the tokenizer itself puts there, or the
        config's, or else the end of the text before."""
        around, alone = self._tokenizer.encode("a").ids, self.encode("a")
        put = around[0] if len(around) > len(alone) and around[1 : 1 + len(alone)] == alone else None
        named = special_tokens(config).get("bos_token")
        known = put if named is None else self._tokenizer.token_to_id(named)
        if known is None:
            return self.end_of_text, False
        always = config.get("add_bos_token")
        return known, always if isinstance(always, bool) else known == put

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Special tokens are spelled out; bytes that are not valid UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)

    def byte_lengths(self) -> np.ndarray:
        """Bytes of each token, int64 [V]; 0 for special tokens."""
        return self._byte_lengths.copy()

    @cached_property
    def lossless(self) -> bool:
        return all(self.decode(self.encode(text)) == text for text in (_PROBE, f" {_PROBE}"))

    @cached_property
    def _byte_lengths(self) -> np.ndarray:
        byte_level = decoder_kinds(self._document) == BYTE_LEVEL
        return bytes_of_tokens(self._tokenizer, byte_level=byte_level, space=SPACE)
