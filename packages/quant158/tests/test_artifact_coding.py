"""Entropy-coded artifacts hold the same arrays in fewer bytes, and nothing else decodes."""

from __future__ import annotations

import hashlib
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_artifact import ARRAYS, MEASURED, TOKENIZER, drawn, put_together, refusal, taken_apart, write

from penstock.hooks.problems import ProblemError
from penstock.quant158.artifact import Artifact, Content
from penstock.quant158.artifact.coding import MOST_TIMES, decoded, encoded
from penstock.quant158.artifact.formats import FORMATS, layouts_of
from penstock.quant158.artifact.sizes import size_of

PAGE = (Path(__file__).parents[1] / "docs" / "artifact.md").read_text(encoding="utf-8")
SHAPE = (2, 40, 60)


def smooth(format: str) -> dict[str, np.ndarray]:
    """Arrays that LZMA makes smaller."""
    arrays = drawn(format, SHAPE)
    if format == "int4-rows":
        arrays["codes"] |= 0x11  # no nibble of 0
    return {name: np.sort(array, axis=None).reshape(array.shape) for name, array in arrays.items()}


def content(name: str, format: str, arrays: dict[str, np.ndarray]) -> Content:
    return Content(name, format, SHAPE, lambda: arrays)


TENSORS = {format: smooth(format) for format in FORMATS}


def coded(path: Path, **changes: Any) -> Path:
    tensors = [content(format, format, arrays) for format, arrays in TENSORS.items()]
    return write(path, **{"tensors": tensors, "aliases": {"again": "fp16"}, "compress": "lzma", **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return coded(tmp_path_factory.mktemp("coded") / "a.penstock").read_bytes()


def reread(header: dict[str, Any], parts: bytes) -> bytes:
    data = put_together(header, parts)
    return data[:8] + b"\2" + data[9:]


def test_coded_arrays_are_those_of_the_plain_file(tmp_path: Path) -> None:
    artifacts = [Artifact.open(coded(tmp_path / f"{each}.penstock", compress=each)) for each in (None, "lzma")]
    for artifact in artifacts:
        artifact.verify()
    plain, small = artifacts
    assert (plain.header.version, small.header.version) == (1, 2)
    assert small.file_bytes < 0.8 * plain.file_bytes
    for name in plain.names:
        assert small.weight(name).tobytes() == plain.weight(name).tobytes()
        for array, values in small.arrays(name).items():
            assert values.tobytes() == plain.arrays(name)[array].tobytes()
            assert not values.flags.writeable
    assert small.file("tokenizer.json") == plain.file("tokenizer.json")


def test_sizes_are_what_is_stored_and_say_what_was_saved(tmp_path: Path) -> None:
    plain, small = (
        size_of(Artifact.open(coded(tmp_path / f"{each}.penstock", compress=each))) for each in (None, "lzma")
    )
    assert (plain.weights, small.decoded) == (plain.decoded, plain.decoded)
    rest = sum(small.files.values()) + small.header + small.hashes + small.padding
    assert small.weights + rest == (tmp_path / "lzma.penstock").stat().st_size


def test_a_file_without_a_smaller_part_is_the_plain_file(tmp_path: Path) -> None:
    tensors = [content("x", "ternary-base3-tensor", drawn("ternary-base3-tensor", SHAPE))]
    one, other = (
        write(tmp_path / f"{each}.penstock", tensors=tensors, aliases={}, compress=each) for each in (None, "lzma")
    )
    assert one.read_bytes() == other.read_bytes()


def test_equal_contents_are_equal_bytes_and_progress_ends(whole: bytes, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = coded(tmp_path / "b.penstock", progress=lambda *at: seen.append(at))
    assert path.read_bytes() == whole
    assert seen[-1][0] == seen[-1][1] == size_of(Artifact.open(path)).decoded + len(TOKENIZER)


def test_large_parts_are_moved_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes) -> None:
    monkeypatch.setattr("penstock.quant158.artifact.writer._MOVED_AT_ONCE", 100)
    assert coded(tmp_path / "a.penstock").read_bytes() == whole


def test_programs_of_version_1_refuse_the_file_by_its_version(whole: bytes, tmp_path: Path) -> None:
    """They compare this number first."""
    assert int.from_bytes(whole[8:12], "little") == 2
    header, parts = taken_apart(whole)
    assert "version 1, but its parts are those of version 2" in refusal(put_together(header, parts), tmp_path)
    plain = write(tmp_path / "plain.penstock").read_bytes()
    found = refusal(plain[:8] + b"\2" + plain[9:], tmp_path)
    assert "version 2, but its parts are those of version 1" in found


def codes(header: dict[str, Any]) -> list[Any]:
    return header["tensors"]["fp32"]["parts"]["values"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda header: codes(header).__setitem__(3, "zip"),
            "values of tensor 'fp32': unknown coding 'zip'; known",
        ),
        (lambda header: codes(header).__setitem__(3, ["lzma"]), "unknown coding"),
        (lambda header: codes(header).append("lzma"), r"expected \[offset, bytes, SHA-256\]"),
        (lambda header: header["files"]["tokenizer.json"].append("lzma"), r"expected \[offset, bytes, SHA-256\]"),
        (lambda header: header["tensors"]["fp32"].update(shape=[2**50]), "more than 256 times as many"),
        (lambda header: header["tensors"]["fp32"].update(shape=[7]), "not more, or more than"),
    ],
)
def test_a_header_that_lies_about_coding_is_refused(change: Any, message: str, whole: bytes, tmp_path: Path) -> None:
    header, parts = taken_apart(whole)
    change(header)
    with pytest.raises(ProblemError, match=message):
        Artifact.open(written(reread(header, parts), tmp_path))


def written(data: bytes, folder: Path) -> Path:
    (folder / "bad.penstock").write_bytes(data)
    return folder / "bad.penstock"


def with_stream(stream: bytes, folder: Path, shape: tuple[int, ...] = (100,)) -> Artifact:
    """An artifact of one tensor whose coded bytes are these, with hashes that fit."""
    tensors = [Content("x", "fp32", shape, lambda: {"values": np.ones(shape, np.float32)})]
    plain = write(folder / "plain.penstock", tensors=tensors, aliases={}, files={})
    header, _ = taken_apart(plain.read_bytes())
    header["tensors"]["x"]["parts"]["values"] = [0, len(stream), hashlib.sha256(stream).hexdigest(), "lzma"]
    artifact = Artifact.open(written(reread(header, stream), folder))
    artifact.verify()
    return artifact


def stream_of(count: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20, "lc": 2, "lp": 2, "pb": 2}]
    return lzma.compress(np.arange(count, dtype="<f4").tobytes(), lzma.FORMAT_RAW, filters=filters)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (stream_of(99), "not 400 bytes and their end"),
        (stream_of(101), "more than 400 bytes"),
        (stream_of(100)[:-1], "not 400 bytes and their end"),
        (stream_of(100)[:40], "not 400 bytes and their end"),
        (stream_of(100) + b"\0", "not 400 bytes and their end"),
        (b"\xff" * 50, "damaged"),
    ],
)
def test_a_stream_that_is_not_the_array_is_refused_by_the_tensors_name(
    stream: bytes, message: str, tmp_path: Path
) -> None:
    assert with_stream(stream_of(100), tmp_path).weight("x").tolist() == list(range(100))
    with pytest.raises(ProblemError, match=f"values of tensor 'x': its lzma data are {message}"):
        with_stream(stream, tmp_path).weight("x")


DECODES = MEASURED.replace(".verify()", ".weight('x')")


def test_a_stream_of_more_than_its_shape_takes_no_more_memory(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20, "lc": 2, "lp": 2, "pb": 2}]
    bomb = lzma.compress(bytes(200 << 20), lzma.FORMAT_RAW, filters=filters)
    assert len(bomb) < 40_000
    path = with_stream(bomb, tmp_path, shape=(len(bomb),)).path  # four times as many bytes as are stored
    child = subprocess.run([sys.executable, "-c", DECODES, str(path)], capture_output=True, text=True, check=True)
    said, figures = child.stdout.splitlines()
    assert f"are more than {4 * len(bomb)} bytes" in said
    assert max(map(int, figures.split())) < 16 << 20


def test_every_damaged_byte_is_noticed(whole: bytes, tmp_path: Path) -> None:
    for position in range(0, len(whole), 61):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        refusal(bytes(changed), tmp_path)


@pytest.mark.parametrize("item", [1, 2, 4])
def test_what_is_encoded_is_decoded(item: int) -> None:
    data = np.sort(np.random.default_rng(0).integers(0, 256, 4000).astype(np.uint8)).tobytes()
    stream = encoded(data, item)
    assert stream is not None
    assert len(stream) < len(data)
    assert decoded(stream, item, len(data)) == data


def test_what_does_not_shrink_or_shrinks_too_much_is_stored_as_it_is() -> None:
    assert encoded(np.random.default_rng(0).bytes(4000), 1) is None
    assert encoded(bytes(1 << 20), 4) is None  # a reader refuses a byte that stands for more than 256
    assert encoded(bytes(2000), 4) is not None


def test_the_page_says_the_limits_and_the_settings() -> None:
    for words in (f"more than {MOST_TIMES}", "2^20 bytes", "(3, 0, 0), (3, 1, 1) and (2, 2, 2)", '"lzma"]'):
        assert words in PAGE
    for item, (lc, lp, pb) in {1: (3, 0, 0), 2: (3, 1, 1), 4: (2, 2, 2)}.items():
        data = np.sort(np.random.default_rng(1).integers(0, 99, 3000).astype(np.uint8)).tobytes()
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20, "lc": lc, "lp": lp, "pb": pb}]
        stream = encoded(data, item)
        assert stream is not None
        assert lzma.decompress(stream, lzma.FORMAT_RAW, filters=filters) == data


def test_the_arrays_of_the_other_tests_are_read_from_coded_files_too(tmp_path: Path) -> None:
    artifact = Artifact.open(write(tmp_path / "a.penstock", compress="lzma"))
    artifact.verify()
    for name, (format, shape, arrays) in ARRAYS.items():
        assert layouts_of(format, shape).keys() == arrays.keys()
        assert all(np.array_equal(artifact.arrays(name)[each], array) for each, array in arrays.items())
