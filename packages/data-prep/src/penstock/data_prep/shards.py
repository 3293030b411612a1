"""Token shards on disk: Megatron-LM's `.bin` and `.idx`, and the manifest that describes them.

A `.bin` holds the tokens of whole documents, little-endian, and nothing else. An `.idx` holds (Megatron-LM,
`core/datasets/indexed_dataset.py`):

    9 bytes   "MMIDIDX\\0\\0"
    uint64    version, 1
    uint8     code of the token type: 8 uint16, 4 int32
    uint64    number of sequences N; here a document is one sequence
    uint64    number of document boundaries, N + 1
    int32[N]  tokens of each sequence
    int64[N]  byte offset of each sequence in the `.bin`
    int64[N+1]  sequence at which each document begins, then N

The format has no uint32: ids above 65,535 are written as int32, which is the same bytes for every id below 2**31.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from penstock.hooks.config import Schema
from penstock.hooks.problems import Problem, ProblemError

MANIFEST = "manifest.json"
_MAGIC = b"MMIDIDX\0\0"
_HEADER = struct.Struct("<9sQBQQ")
_CODE_TO_TYPE = {8: np.dtype("<u2"), 4: np.dtype("<i4")}


def token_type(vocabulary_size: int) -> np.dtype:
    """The narrowest type that holds every id: uint16 up to 65,536 tokens, int32 above."""
    if not 0 < vocabulary_size <= 2**31:
        raise ValueError(f"vocabulary_size is {vocabulary_size}; it must be positive and at most 2**31")
    return _CODE_TO_TYPE[8 if vocabulary_size <= 65536 else 4]


def shard_name(split: str, number: int) -> str:
    """The name of a shard's files, without their suffixes."""
    return f"{split}-{number:05d}"


class FileRecord(Schema):
    """Size and hash of a file as it was written."""

    bytes: int
    sha256: str


class ShardRecord(Schema):
    """One pair of files, `name`.bin and `name`.idx."""

    name: str
    tokens: int
    documents: int


class SplitRecord(Schema):
    """One split; `text_bytes` are the UTF-8 bytes of its documents, `tokens` include each document's end-of-text."""

    tokens: int
    documents: int
    text_bytes: int
    shards: tuple[ShardRecord, ...]


class StageRecord(Schema):
    """Input and output of a stage: documents and UTF-8 bytes."""

    name: str
    documents_in: int
    documents_out: int
    bytes_in: int
    bytes_out: int


class CorpusRecord(Schema):
    """What was read. `skipped` counts documents that the corpus could not decode, `empty` those without text."""

    name: str
    documents: int
    bytes: int
    skipped: int
    empty: int
    fingerprint: dict[str, Any] | None


HashRule = Literal["xxh3_64(utf-8 text, seed) < share * 2**64"]
TailRule = Literal["the last share of the only document"]
HASH_RULE: HashRule = "xxh3_64(utf-8 text, seed) < share * 2**64"
TAIL_RULE: TailRule = "the last share of the only document"


class HeldoutRule(Schema):
    """Which text is held out: documents by a pure function of their text, so that none ever changes sides, or the end
    of a document that is the only one."""

    rule: HashRule | TailRule = HASH_RULE
    share: float
    seed: int


class Manifest(Schema):
    """The complete description of a folder of shards. It has no times and no paths: same input, same bytes."""

    format: Literal["penstock-tokens"] = "penstock-tokens"
    version: Literal[1] = 1
    token_bytes: Literal[2, 4]
    vocabulary_size: int
    tokenizer_sha256: str
    splits: dict[str, SplitRecord]
    heldout: HeldoutRule
    corpus: CorpusRecord
    filters: tuple[StageRecord, ...]
    settings: dict[str, Any]
    files: dict[str, FileRecord]


@dataclass(frozen=True, slots=True)
class Index:
    """A parsed `.idx`: `lengths_N` tokens and `pointers_N` byte offsets of sequences, `documents_M` boundaries."""

    dtype: np.dtype
    lengths_N: np.ndarray
    pointers_N: np.ndarray
    documents_M: np.ndarray

    @property
    def is_sound(self) -> bool:
        """Whether sequences lie one after the other, and documents begin in order and end at the last of them."""
        ends_N = np.cumsum(self.lengths_N, dtype=np.int64) * self.dtype.itemsize
        follows = np.array_equal(self.pointers_N[1:], ends_N[:-1]) and not self.pointers_N[:1].any()
        ordered = not self.documents_M[:1].any() and bool((np.diff(self.documents_M) >= 0).all())
        ended = self.documents_M[-1:].tolist() == [len(self.lengths_N)]
        return follows and ordered and ended and bool((self.lengths_N >= 0).all())


def encode_index(dtype: np.dtype, lengths_N: np.ndarray) -> bytes:
    """The `.idx` of a shard whose documents have these lengths in tokens."""
    code = next(code for code, known in _CODE_TO_TYPE.items() if known == dtype)
    count = len(lengths_N)
    ends_N = np.cumsum(lengths_N, dtype=np.int64) * dtype.itemsize
    pointers_N = np.concatenate([np.zeros(min(count, 1), dtype=np.int64), ends_N[:-1]])
    return b"".join(
        (
            _HEADER.pack(_MAGIC, 1, code, count, count + 1),
            lengths_N.astype("<i4").tobytes(),
            pointers_N.astype("<i8").tobytes(),
            np.arange(count + 1, dtype="<i8").tobytes(),
        )
    )


def read_index(path: Path) -> Index:
    """Reads an `.idx`, ours or Megatron-LM's; raises `ProblemError` if the file is not one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise _damaged(path, "not a Megatron index")
    _, version, code, count, boundaries = _HEADER.unpack_from(data)
    if version != 1 or code not in _CODE_TO_TYPE:
        raise _damaged(path, f"unknown index version {version} or token type {code}")
    if len(data) < _HEADER.size + 12 * count + 8 * boundaries:
        raise _damaged(path, "the index is truncated")
    index = Index(
        dtype=_CODE_TO_TYPE[code],
        lengths_N=np.frombuffer(data, "<i4", count, _HEADER.size),
        pointers_N=np.frombuffer(data, "<i8", count, _HEADER.size + 4 * count),
        documents_M=np.frombuffer(data, "<i8", boundaries, _HEADER.size + 12 * count),
    )
    if not index.is_sound:
        raise _damaged(path, "its lengths, offsets and documents contradict each other")
    return index


def _damaged(path: Path, what: str) -> ProblemError:
    return ProblemError(Problem("damaged-file", what, str(path), "delete the folder and prepare the data again"))


class SplitWriter:
    """Writes the shards of one split. A shard is closed by the document that brings it to `shard_tokens`."""

    def __init__(self, folder: Path, split: str, *, vocabulary_size: int, shard_tokens: int) -> None:
        if shard_tokens < 1:
            raise ProblemError(Problem("invalid-value", f"is {shard_tokens}", "shard_tokens", "use a positive number"))
        self.files: dict[str, FileRecord] = {}
        self._folder = folder
        self._split = split
        self._vocabulary_size = vocabulary_size
        self._dtype = token_type(vocabulary_size)
        self._shard_tokens = shard_tokens
        self._shards: list[ShardRecord] = []
        self._text_bytes = 0
        self._lengths: list[int] = []
        self._tokens = 0
        self._bin: HashedFile | None = None

    def add(self, tokens: np.ndarray, *, text_bytes: int) -> None:
        """Appends a document, its end-of-text included. Raises ValueError for an id outside the vocabulary, which a
        narrower type would wrap silently."""
        if tokens.min() < 0 or tokens.max() >= self._vocabulary_size:
            raise ValueError(
                f"a token id is outside [0, {self._vocabulary_size}): pass the tokenizer's vocabulary size"
            )
        if len(tokens) >= 2**31:
            what = f"a document has {len(tokens)} tokens; an index stores only lengths below 2**31"
            raise ProblemError(Problem("document-too-long", what, self._split, "split it with `separator`"))
        if self._bin is None:
            self._bin = HashedFile(self._folder / f"{self._name}.bin")
        self._bin.write(tokens.astype(self._dtype).tobytes())
        self._lengths.append(len(tokens))
        self._tokens += len(tokens)
        self._text_bytes += text_bytes
        if self._tokens >= self._shard_tokens:
            self._finish_shard()

    def finish(self) -> SplitRecord:
        """Closes the last shard; everything is then on disk."""
        if self._lengths:
            self._finish_shard()
        return SplitRecord(
            tokens=sum(shard.tokens for shard in self._shards),
            documents=sum(shard.documents for shard in self._shards),
            text_bytes=self._text_bytes,
            shards=tuple(self._shards),
        )

    @property
    def _name(self) -> str:
        return shard_name(self._split, len(self._shards))

    def _finish_shard(self) -> None:
        assert self._bin is not None
        name = self._name
        index = encode_index(self._dtype, np.array(self._lengths, dtype=np.int64))
        self.files[f"{name}.bin"] = self._bin.close()
        self.files[f"{name}.idx"] = write_file(self._folder / f"{name}.idx", index)
        self._shards.append(ShardRecord(name=name, tokens=self._tokens, documents=len(self._lengths)))
        self._bin, self._lengths, self._tokens = None, [], 0


class HashedFile:
    """A new file that is hashed while it is written and synced to disk when it is closed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)

    def close(self) -> FileRecord:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        return FileRecord(bytes=self._bytes, sha256=self._digest.hexdigest())


def write_file(path: Path, data: bytes) -> FileRecord:
    """Writes a whole new file and returns its record."""
    file = HashedFile(path)
    file.write(data)
    return file.close()


def write_files(folder: Path, contents: Mapping[str, bytes]) -> dict[str, FileRecord]:
    return {name: write_file(folder / name, data) for name, data in contents.items()}
