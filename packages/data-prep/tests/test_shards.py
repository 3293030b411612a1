"""Laws of the shard files: Megatron-LM's layout byte for byte, read back by a reader written from its source."""

from __future__ import annotations

import hashlib
import struct
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.data_prep.shards import SplitWriter, encode_index, read_index, token_type
from penstock.hooks.problems import ProblemError

DOCUMENTS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=12)


def megatron_documents(folder: Path, name: str) -> list[list[int]]:
    """What `IndexedDataset` of Megatron-LM yields for a prefix, from its reader's field order."""
    types = {1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 6: "f8", 7: "f4", 8: "u2"}
    with (folder / f"{name}.idx").open("rb") as file:
        assert file.read(9) == b"MMIDIDX\x00\x00"
        assert struct.unpack("<Q", file.read(8)) == (1,)
        (code,) = struct.unpack("<B", file.read(1))
        (sequences,) = struct.unpack("<Q", file.read(8))
        (boundaries,) = struct.unpack("<Q", file.read(8))
        lengths = np.frombuffer(file.read(4 * sequences), "<i4")
        pointers = np.frombuffer(file.read(8 * sequences), "<i8")
        starts = np.frombuffer(file.read(8 * boundaries), "<i8")
        assert file.read() == b""
    data = (folder / f"{name}.bin").read_bytes()
    assert starts.tolist() == list(range(sequences + 1))
    return [
        np.frombuffer(data, f"<{types[code]}", length, pointer).tolist()
        for length, pointer in zip(lengths, pointers, strict=True)
    ]


def write(folder: Path, documents: list[list[int]], vocabulary_size: int, shard_tokens: int) -> SplitWriter:
    writer = SplitWriter(folder, "train", vocabulary_size=vocabulary_size, shard_tokens=shard_tokens)
    for document in documents:
        writer.add(np.array(document), text_bytes=7)
    return writer


def test_index_is_the_documented_layout_byte_for_byte() -> None:
    assert encode_index(np.dtype("<u2"), np.array([3, 1])) == bytes.fromhex(
        "4d4d494449445800 00"  # MMIDIDX, two zeros
        "0100000000000000"  # version 1
        "08"  # uint16
        "0200000000000000"  # 2 sequences
        "0300000000000000"  # 3 document boundaries
        "03000000 01000000"  # lengths
        "0000000000000000 0600000000000000"  # byte offsets
        "0000000000000000 0100000000000000 0200000000000000"  # boundaries
    )


@settings(deadline=None, max_examples=50)
@given(documents=DOCUMENTS, wide=st.booleans(), shard_tokens=st.integers(1, 30))
def test_megatron_reads_back_every_document_in_order(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], wide: bool, shard_tokens: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    writer = write(folder, documents, 151_552 if wide else 100, shard_tokens)
    record = writer.finish()
    shards = [megatron_documents(folder, shard.name) for shard in record.shards]
    assert list(chain.from_iterable(shards)) == documents
    assert (record.documents, record.tokens) == (len(documents), sum(map(len, documents)))
    assert record.text_bytes == 7 * len(documents)
    for shard, content in zip(record.shards, shards, strict=True):
        assert (shard.documents, shard.tokens) == (len(content), sum(map(len, content)))
        assert shard.tokens - len(content[-1]) < shard_tokens
    assert all(shard.tokens >= shard_tokens for shard in record.shards[:-1])
    assert {path.name for path in folder.iterdir()} == set(writer.files)
    for name, file in writer.files.items():
        data = (folder / name).read_bytes()
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@given(size=st.integers(1, 2**31))
def test_token_type_is_the_narrowest_that_holds_every_id(size: int) -> None:
    dtype = token_type(size)
    assert size - 1 <= np.iinfo(dtype).max
    assert (dtype.itemsize == 2) == (size <= 65536)


@pytest.mark.parametrize(("vocabulary_size", "width"), [(65_536, 2), (65_537, 4), (151_552, 4)])
def test_largest_id_does_not_wrap(tmp_path: Path, vocabulary_size: int, width: int) -> None:
    write(tmp_path, [[0, vocabulary_size - 1]], vocabulary_size, 10).finish()
    assert (tmp_path / "train-00000.bin").stat().st_size == 2 * width
    assert megatron_documents(tmp_path, "train-00000") == [[0, vocabulary_size - 1]]


@pytest.mark.parametrize("token", [100, 65_536 + 5, -1])
def test_id_outside_the_vocabulary_is_refused(tmp_path: Path, token: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        write(tmp_path, [[5, token]], 100, 10)


def test_index_reads_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.idx"
    good = encode_index(np.dtype("<i4"), np.array([3, 1, 4]))
    path.write_bytes(good)
    index = read_index(path)
    assert (index.dtype, index.lengths_N.tolist()) == (np.dtype("<i4"), [3, 1, 4])
    assert (index.pointers_N.tolist(), index.documents_M.tolist()) == ([0, 12, 16], [0, 1, 2, 3])
    for bad in (good[:-1], good[:20], b"X" + good[1:], good[:9] + b"\2" + good[10:]):
        path.write_bytes(bad)
        with pytest.raises(ProblemError) as caught:
            read_index(path)
        assert caught.value.problems[0].where == str(path)
