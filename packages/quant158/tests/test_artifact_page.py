"""The page of the file format describes the files that are written, byte by byte."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from penstock.quant158.artifact import Artifact, Content, Identity, write_artifact
from penstock.quant158.artifact.formats import FORMATS
from penstock.quant158.artifact.header import LARGEST_HEADER

PAGE = (Path(__file__).parents[1] / "docs" / "artifact.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def example() -> bytes:
    """The bytes of the example, from what the page prints of them."""
    data = bytearray()
    first, parts = blocks("hex")
    (header,) = blocks("json")
    for start, row in re.findall(r"^ *(\d+)  ([0-9a-f ]+)$", first, re.M):
        assert len(data) == int(start)
        data += bytes.fromhex(row)
    data += header.rstrip("\n").encode()
    for start, row in re.findall(r"^ *(\d+)  ([0-9a-f ]+)$", parts, re.M):
        data += bytes(int(start) - len(data)) + bytes.fromhex(row)
    return bytes(data)


def test_the_example_is_read_by_the_page_alone(example: bytes) -> None:
    magic, version, length, digest = struct.unpack_from("<8sII32s", example)
    header = example[48 : 48 + length]
    assert (magic, version, digest) == (b"PENSTOCK", 1, hashlib.sha256(header).digest())
    said = json.loads(header)
    start = -(-(48 + length) // 64) * 64
    assert f"Parts begin at byte {start}" in PAGE
    tensor = said["tensors"]["proj.weight"]
    arrays = {}
    for name, (offset, size, sha256) in tensor["parts"].items():
        arrays[name] = example[start + offset : start + offset + size]
        assert hashlib.sha256(arrays[name]).hexdigest() == sha256
    trits = [code // 3**digit % 3 - 1 for code in arrays["codes"] for digit in range(5)]
    scales = struct.unpack("<2e", arrays["scale"])
    (printed,) = blocks("text")
    rows = [[float(number) for number in line.split()] for line in printed.splitlines()]
    assert tensor["shape"] == [len(rows), len(rows[0])]
    assert rows == [[trit * scales[row] for trit in trits[7 * row : 7 * row + 7]] for row in range(2)]
    assert trits[14:] == [0]


def test_the_example_is_read_by_the_reader(example: bytes, tmp_path: Path) -> None:
    path = tmp_path / "example.penstock"
    path.write_bytes(example)
    artifact = Artifact.open(path)
    artifact.verify()
    (printed,) = blocks("text")
    assert artifact.weight("again.weight").tolist() == [
        [float(x) for x in line.split()] for line in printed.splitlines()
    ]
    assert artifact.weight("norm.weight").tolist() == [1.0, -2.5]
    assert artifact.file("tokenizer.json") == b"{}"


def test_the_example_is_what_the_writer_writes(example: bytes, tmp_path: Path) -> None:
    codes, scale = np.array([194, 201, 137], np.uint8), np.array([[0.5], [0.0625]], np.float16)
    norm = np.array([1.0, -2.5], np.float32)
    tensors = [
        Content("proj.weight", "ternary-base3-g64", (2, 7), lambda: {"codes": codes, "scale": scale}),
        Content("norm.weight", "fp32", (2,), lambda: {"values": norm}),
    ]
    write_artifact(
        tmp_path / "example.penstock",
        tensors,
        penstock="0.1.0",
        run={"name": "tiny"},
        checkpoint=Identity(3, 96, "0" * 64),
        architecture="penstock-moe-core:glm-moe",
        decoder={"unsupported": "an example"},
        aliases={"again.weight": "proj.weight"},
        files={"tokenizer.json": b"{}"},
    )
    assert (tmp_path / "example.penstock").read_bytes() == example


def test_the_page_has_every_format_and_limit() -> None:
    named = set(re.findall(r"`([\w-]+)`", "\n".join(re.findall(r"^\| `.*", PAGE, re.M))))
    written = {f"ternary-base3{each}" if each.startswith("-g") else each for each in named}
    assert set(FORMATS) <= written
    assert f"at most {LARGEST_HEADER:,}" in PAGE
