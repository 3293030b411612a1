"""The held-out text of a sweep, cut into the same pieces whatever tokenizer a cell has.

Shape suffixes: N tokens, D documents, P pieces, which are documents, or pieces of equal bytes if there are only a few
documents.
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
"""Bytes of a piece of few documents. A token counts for the piece in which it begins."""
FEWEST_PIECES = 30
"""With fewer pieces the error of their mean is not normal and not known well enough: no rule stops a cell by it, and no
report shows an interval of it."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tokens [N], the piece [N] of each, and the bytes [P] of each piece. Equal `text`, the SHA-256 of the text and of
    how few documents were cut, means equal pieces; `text_bytes` is the text's length. Bits per byte are the bits of all
    pieces over the bytes of all pieces."""

    token_N: NDArray[Any]
    piece_N: NDArray[np.int64]
    byte_P: NDArray[np.int64]
    text: str
    text_bytes: int

    def bits(self, nll_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bits [P] of each piece, from the nats [N - 1] of all tokens but the first, which is context only."""
        bits_P = np.bincount(self.piece_N[1:], weights=nll_N / math.log(2), minlength=len(self.byte_P))
        return bits_P.astype(np.float64)


def pieces_of(token_N: NDArray[Any], tokenizer: Tokenizer, limit: int | None) -> Pieces:
    """The pieces of the whole text, or of its first documents that together have at least `limit` bytes. Fewer than
    `FEWEST_PIECES` documents are cut every `PIECE` bytes, and at `limit` bytes."""
    documents = document_pieces(token_N, tokenizer, limit)
    if len(documents.byte_P) >= FEWEST_PIECES:
        return documents
    several = bool((token_N[:-1] == tokenizer.end_of_text).any())
    return _of_few_documents(documents.token_N, tokenizer, limit, several=several)


def document_pieces(token_N: NDArray[Any], tokenizer: Tokenizer, limit: int | None) -> Pieces:
    """A piece for each document, however few there are."""
    byte_N = tokenizer.byte_lengths()[token_N].astype(np.int64)
    ends_N = token_N == tokenizer.end_of_text
    document_N = np.cumsum(ends_N) - ends_N  # a token that ends a document belongs to it
    byte_D = np.bincount(document_N, weights=byte_N).astype(np.int64)
    kept = len(byte_D)
    if limit is not None:
        kept = min(kept, int(np.searchsorted(np.cumsum(byte_D), limit)) + 1)
    inside = int(np.searchsorted(document_N, kept))
    content = _text(token_N[:inside], tokenizer)
    text = hashlib.sha256(content).hexdigest()
    return Pieces(token_N[:inside], document_N[:inside], byte_D[:kept], text, len(content))


def _of_few_documents(token_N: NDArray[Any], tokenizer: Tokenizer, limit: int | None, *, several: bool) -> Pieces:
    """Of `several` documents the pieces have a name of their own: an earlier version took each document as a piece."""
    content = _text(token_N, tokenizer)[:limit]
    byte_N = tokenizer.byte_lengths()[token_N].astype(np.int64)
    begin_N = np.cumsum(byte_N) - byte_N
    inside = int(np.searchsorted(begin_N, len(content))) if limit is not None else len(token_N)
    count = max(1, math.ceil(len(content) / PIECE))
    byte_P = np.diff([*range(0, count * PIECE, PIECE), len(content)]).astype(np.int64)
    piece_N = np.minimum(begin_N[:inside] // PIECE, count - 1)
    cut = f"\0cut every {PIECE} bytes".encode() if several else b""
    return Pieces(token_N[:inside], piece_N, byte_P, hashlib.sha256(content + cut).hexdigest(), len(content))


def _text(token_N: NDArray[Any], tokenizer: Tokenizer) -> bytes:
    """The documents one after the other. Each is decoded by itself: a tokenizer may write its beginning differently."""
    ends = np.flatnonzero(token_N == tokenizer.end_of_text)
    parts = (part[part != tokenizer.end_of_text] for part in np.split(token_N, ends))
    return "".join(tokenizer.decode(part.tolist()) for part in parts if len(part)).encode()
