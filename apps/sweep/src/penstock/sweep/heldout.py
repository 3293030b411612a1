"""The held-out text of a sweep, cut into the same pieces whatever tokenizer a cell has.

Shape suffixes: N tokens, P pieces, which are documents, or pieces of equal bytes if there is only one document.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.contracts import Tokenizer

PIECE = 2048
"""Bytes of a piece of a single document. A token counts for the piece in which it begins."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tokens [N], the bytes [N] and the piece [N] of each, and the bytes [P] of each piece. `text` is the SHA-256 of
    the text and `text_bytes` its length: equal texts have equal pieces."""

    token_N: NDArray[Any]
    byte_N: NDArray[np.int64]
    piece_N: NDArray[np.int64]
    byte_P: NDArray[np.int64]
    text: str
    text_bytes: int

    def bits(self, nll_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bits [P] of each piece, from the nats [N - 1] of all tokens but the first, which is context only."""
        bits_P = np.bincount(self.piece_N[1:], weights=nll_N / math.log(2), minlength=len(self.byte_P))
        return bits_P.astype(np.float64)


def pieces_of(token_N: NDArray[Any], tokenizer: Tokenizer, limit: int | None) -> Pieces:
    """The pieces of the whole text, or of its first documents that together have at least `limit` bytes; of a single
    document, its first `limit` bytes."""
    byte_N = tokenizer.byte_lengths()[token_N].astype(np.int64)
    ends_N = token_N == tokenizer.end_of_text
    document_N = np.cumsum(ends_N) - ends_N  # a token that ends a document belongs to it
    if document_N[-1] == document_N[0]:
        return _of_one_document(token_N, byte_N, tokenizer, limit)
    byte_D = np.bincount(document_N, weights=byte_N).astype(np.int64)
    kept = len(byte_D)
    if limit is not None:
        kept = min(kept, int(np.searchsorted(np.cumsum(byte_D), limit)) + 1)
    inside = int(np.searchsorted(document_N, kept))
    token_N, byte_N, document_N = token_N[:inside], byte_N[:inside], document_N[:inside]
    content = _text(token_N, tokenizer)
    return Pieces(token_N, byte_N, document_N, byte_D[:kept], hashlib.sha256(content).hexdigest(), len(content))


def _of_one_document(
    token_N: NDArray[Any], byte_N: NDArray[np.int64], tokenizer: Tokenizer, limit: int | None
) -> Pieces:
    content = _text(token_N, tokenizer)[:limit]
    begin_N = np.cumsum(byte_N) - byte_N
    inside = int(np.searchsorted(begin_N, len(content))) if limit is not None else len(token_N)
    count = max(1, math.ceil(len(content) / PIECE))
    byte_P = np.diff([*range(0, count * PIECE, PIECE), len(content)]).astype(np.int64)
    piece_N = np.minimum(begin_N[:inside] // PIECE, count - 1)
    text = hashlib.sha256(content).hexdigest()
    return Pieces(token_N[:inside], byte_N[:inside], piece_N, byte_P, text, len(content))


def _text(token_N: NDArray[Any], tokenizer: Tokenizer) -> bytes:
    """The documents one after the other. Each is decoded by itself: a tokenizer may write its beginning differently."""
    ends = np.flatnonzero(token_N == tokenizer.end_of_text)
    parts = (part[part != tokenizer.end_of_text] for part in np.split(token_N, ends))
    return "".join(tokenizer.decode(part.tolist()) for part in parts if len(part)).encode()
