"""The tokenizer files of llama2.c (`tokenizer.bin`, `tok512.bin`) as tokenizers of the `tokenizers` library.

A file lists pieces with scores. llama2.c puts a space before a text, looks up every character, writes unknown ones as
bytes, and then merges the neighbours whose concatenation has the best score until no concatenation is a piece. That is
BPE: every pair of pieces that concatenates to a piece is a merge, ranked by the piece's score.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from penstock.hooks.problems import Problem, ProblemError

# Ids of every such file: unknown, begin, end, then the bytes.
_SPECIALS = 3
_RECORD = struct.Struct("<fi")


def convert_llama2c(data: bytes, where: str, *, end_of_text: str) -> bytes:
    """The `tokenizer.json` of a llama2.c tokenizer file; raises `ProblemError` if `data` is not such a file.

    llama2.c separates texts with its begin token (id 1), which becomes `end_of_text` here.
    """
    scored = _pieces(data, where)
    pieces = ["<unk>", end_of_text, "</s>", *(piece for piece, _ in scored[_SPECIALS:])]
    if pieces[_SPECIALS : _SPECIALS + 256] != [f"<0x{byte:02X}>" for byte in range(256)]:
        raise _not_one(where, "ids 3 to 258 are not the bytes")
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces):
        raise _not_one(where, "a piece occurs twice")
    merges = _merges(vocabulary, [score for _, score in scored])
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece in pieces[:_SPECIALS]])
    return tokenizer.to_str(pretty=True).encode()


def _pieces(data: bytes, where: str) -> list[tuple[str, float]]:
    """Piece and score by id. The file stores no count: it ends after its last piece."""
    found: list[tuple[str, float]] = []
    start = 4  # after the length of the longest piece
    while start < len(data):
        try:
            score, length = _RECORD.unpack_from(data, start)
            start += _RECORD.size
            if not 0 <= length <= len(data) - start:
                raise _not_one(where, "it ends in the middle of a piece")
            found.append((data[start : start + length].decode(), score))
        except (struct.error, UnicodeDecodeError) as error:
            raise _not_one(where, str(error)) from error
        start += length
    return found


def _merges(vocabulary: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of pieces that concatenates to a piece, the best score first.

    All pairs of one piece have the same score; llama2.c takes the leftmost. Ranks cannot express that. It only matters
    if two ways to make a piece overlap, as (ab, a) and (a, ba) do in "ababa"; ranking the longer left part first is
    right there.
    """
    ranked: list[tuple[float, int, str, str]] = []
    for piece, index in vocabulary.items():
        if index < _SPECIALS + 256:
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[index], -cut, left, right))
    return [(left, right) for _, _, left, right in sorted(ranked)]


def _not_one(where: str, why: str) -> ProblemError:
    fix = "use a tokenizer.json, or a .bin written by llama2.c's tokenizer.py"
    return ProblemError(Problem("damaged-file", f"not a llama2.c tokenizer ({why})", where, fix))
