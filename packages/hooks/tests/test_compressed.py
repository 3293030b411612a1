"""Every byte of a compressed file is read or refused; the oracle is the text that the test compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hooks.compressed import open_input, uncompressed_name
from penstock.hooks.problems import ProblemError


def zstandard(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data)


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}
ONE, TWO = b"first\n", b"second, a thousand times as long\n" * 1000


def written(folder: Path, suffix: str, content: bytes) -> Path:
    path = folder / f"a.txt{suffix}"
    path.write_bytes(content)
    return path


def read(path: Path) -> bytes:
    with open_input(path) as stream:
        return stream.read()


def refusal(path: Path) -> str:
    with pytest.raises(ProblemError) as caught:
        read(path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where, bool(problem.fix)) == ("damaged-file", str(path), True)
    return problem.what


@pytest.mark.parametrize("suffix", COMPRESS)
def test_streams_of_one_file_are_joined_and_zeros_around_them_are_padding(tmp_path: Path, suffix: str) -> None:
    one, two = COMPRESS[suffix](ONE), COMPRESS[suffix](TWO)
    assert read(written(tmp_path, suffix, one + two)) == ONE + TWO
    assert read(written(tmp_path, suffix, one + bytes(4) + two + bytes(8))) == ONE + TWO
    assert read(written(tmp_path, suffix, one + COMPRESS[suffix](b"") + two)) == ONE + TWO


@pytest.mark.parametrize("suffix", COMPRESS)
def test_no_stream_is_lost_behind_a_damaged_header(tmp_path: Path, suffix: str) -> None:
    one, two = COMPRESS[suffix](ONE), bytearray(COMPRESS[suffix](TWO))
    two[1] ^= 1
    assert "stream 2" in refusal(written(tmp_path, suffix, one + bytes(two)))


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("tail", [b"garbage", b"\0\0\0\0garbage", b"\x1f", b"B", b"\xfd7zX", b"(\xb5"])
def test_bytes_after_the_last_stream_are_refused(tmp_path: Path, suffix: str, tail: bytes) -> None:
    refusal(written(tmp_path, suffix, COMPRESS[suffix](ONE) + tail))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_that_is_empty_or_cut_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    assert "it is empty" in refusal(written(tmp_path, suffix, b""))
    whole = COMPRESS[suffix](os.urandom(500))
    for cut in range(1, len(whole)):
        refusal(written(tmp_path, suffix, whole[:cut]))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_flipped_bit_changes_no_text_in_silence(tmp_path_factory: pytest.TempPathFactory, suffix: str, data) -> None:
    text = b"The gate feeds the turbine. " * 40
    damaged = bytearray(COMPRESS[suffix](text))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    path = written(tmp_path_factory.mktemp("flip"), suffix, bytes(damaged))
    try:
        found = read(path)
    except ProblemError:
        return
    assert found == text  # a flag of the header, such as the time of a .gz


@pytest.mark.parametrize("suffix", COMPRESS)
def test_much_output_of_little_input_is_read_in_parts(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, suffix, COMPRESS[suffix](bytes(50_000_000)))
    with open_input(path) as stream:
        assert sum(len(part) for part in iter(lambda: stream.read(1 << 20), b"")) == 50_000_000


@pytest.mark.parametrize("log", [27, 28, 31])
def test_a_zstandard_file_with_a_long_window_is_read(tmp_path: Path, log: int) -> None:
    library = pytest.importorskip("zstandard")
    parameters = library.ZstdCompressionParameters.from_level(3, window_log=log)
    packed = io.BytesIO()
    with library.ZstdCompressor(compression_params=parameters).stream_writer(packed, closefd=False) as writer:
        writer.write(TWO)
    assert read(written(tmp_path, ".zst", packed.getvalue())) == TWO


def test_a_plain_file_is_read_as_it_is_and_an_absent_one_is_named(tmp_path: Path) -> None:
    assert read(written(tmp_path, "", gzip.compress(ONE))) == gzip.compress(ONE)
    with pytest.raises(ProblemError, match=r"absent\.gz: cannot be read \(No such file"):
        read(tmp_path / "absent.gz")


def test_the_name_of_what_is_inside_lacks_the_suffix_of_its_compression() -> None:
    names = ("a.jsonl.xz", "a.jsonl", "a.gz", "a.tar.zst", "gz")
    assert [uncompressed_name(Path(name)) for name in names] == ["a.jsonl", "a.jsonl", "a", "a.tar", "gz"]
