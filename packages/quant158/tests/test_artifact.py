"""An artifact is read as it was written, or refused with what is wrong and where."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.hooks.problems import ProblemError
from penstock.quant158.artifact import Artifact, Content, Identity, write_artifact
from penstock.quant158.artifact.formats import FORMATS, layouts_of
from penstock.quant158.artifact.reader import is_artifact

RNG = np.random.default_rng(0)
NORM = RNG.standard_normal(5).astype(np.float32)
RUN = {"name": "a run", "seed": 3}
TOKENIZER = b'{"model": {}}'


def drawn(format: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays that a tensor of a format may have."""
    found: dict[str, np.ndarray] = {}
    for name, layout in layouts_of(format, shape).items():
        if name == "scale":
            found[name] = RNG.uniform(0.01, 1, layout.shape).astype(np.float16)
        elif layout.dtype.kind == "f":
            found[name] = RNG.standard_normal(layout.shape).astype(layout.dtype)
        else:
            low, high = (-127, 128) if format == "int8-rows" else (0, 243 if "base3" in format else 256)
            found[name] = RNG.integers(low, high, layout.shape, layout.dtype)
    return found


ARRAYS = {
    "norm": ("fp32", (5,), {"values": NORM}),
    "stack": ("ternary-base3-g64", (3, 7, 70), drawn("ternary-base3-g64", (3, 7, 70))),
    "embedding": ("int8-rows", (9, 5), drawn("int8-rows", (9, 5))),
}
ALIASES = {"head": "embedding"}


def write(path: Path, **changes: Any) -> Path:
    tensors = [Content(name, format, shape, lambda each=each: each) for name, (format, shape, each) in ARRAYS.items()]
    given: dict[str, Any] = {
        "penstock": "0.1.0",
        "run": RUN,
        "checkpoint": Identity(8, 1024, "0" * 64),
        "architecture": "penstock-moe-core:glm-moe",
        "decoder": {"unsupported": "a test"},
        "aliases": ALIASES,
        "files": {"tokenizer.json": TOKENIZER},
    }
    write_artifact(path, **{"tensors": tensors, **given, **changes})
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("artifact") / "a.penstock").read_bytes()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    artifact = Artifact.open(write(tmp_path / "a.penstock"))
    artifact.verify()
    assert set(artifact.names) == {*ARRAYS, *ALIASES}
    for name, (format, shape, arrays) in ARRAYS.items():
        assert (artifact.tensor(name).format, artifact.tensor(name).shape) == (format, shape)
        read = artifact.arrays(name)
        assert all(
            read[each].dtype == array.dtype and np.array_equal(read[each], array) for each, array in arrays.items()
        )
    assert np.array_equal(artifact.weight("norm"), NORM)
    assert np.array_equal(artifact.arrays("head")["codes"], ARRAYS["embedding"][2]["codes"])
    assert artifact.file("tokenizer.json") == TOKENIZER
    assert artifact.header.run == RUN
    assert artifact.header.checkpoint == Identity(8, 1024, "0" * 64)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 129), (3, 65), (2, 4, 257), (1, 3, 5)])
def test_every_format_and_shape_is_read_as_written(format: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    arrays = drawn(format, shape)
    path = write(tmp_path / "a.penstock", tensors=[Content("x", format, shape, lambda: arrays)], aliases={})
    artifact = Artifact.open(path)
    artifact.verify()
    assert all(np.array_equal(artifact.arrays("x")[name], array) for name, array in arrays.items())


def test_an_artifact_may_hold_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.penstock", tensors=[], aliases={}, files={})
    assert Artifact.open(path).names == ()
    assert path.stat().st_size % 64 == 0


def test_folders_of_an_artifact_are_made(tmp_path: Path) -> None:
    Artifact.open(write(tmp_path / "new" / "folder" / "a.penstock")).verify()


def test_equal_contents_are_equal_bytes(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.penstock"), write(tmp_path / "b.penstock")
    assert one.read_bytes() == other.read_bytes()


def test_arrays_are_views_at_multiples_of_64(tmp_path: Path) -> None:
    artifact = Artifact.open(write(tmp_path / "a.penstock"))
    codes = artifact.arrays("stack")["codes"]
    assert codes.ctypes.data % 64 == 0
    assert not codes.flags.writeable


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    artifact = Artifact.open(write(tmp_path / "a.penstock", progress=lambda *at: seen.append(at)))
    assert seen[-1][0] == seen[-1][1] == sum(part.bytes for _, part in artifact.header.parts())
    artifact.verify(lambda *at: seen.append(at))
    assert len(seen) == 2 * 6  # six parts, small enough to be hashed at once


# ---------------------------------------------------------------------------------------------- refused


def taken_apart(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[48 : 48 + length]), data[-(-(48 + length) // 64) * 64 :]


def put_together(header: dict[str, Any] | bytes, parts: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = struct.pack("<8sII32s", b"PENSTOCK", 1, len(text), hashlib.sha256(text).digest())
    return (prefix + text).ljust(-(-(48 + len(text)) // 64) * 64, b"\0") + parts


Change = Callable[[dict[str, Any]], Any]


def part(header: dict[str, Any], name: str = "stack", array: str = "codes") -> list[Any]:
    return header["tensors"][name]["parts"][array]


def set_at(*place: str, to: Any) -> Change:
    def change(header: dict[str, Any]) -> None:
        at: Any = header
        for each in place[:-1]:
            at = at[each]
        at[place[-1]] = to

    return change


def nested(levels: int) -> list[Any]:
    return [nested(levels - 1)] if levels else []


BAD_HEADERS: dict[str, tuple[Change, str]] = {
    "an unknown format": (set_at("tensors", "stack", "format", to="ternary-base2"), "'stack': unknown format"),
    "another shape": (
        set_at("tensors", "stack", "shape", to=[3, 7, 71]),
        r"codes of tensor 'stack': 294 bytes, but shape \[3, 7, 71\] takes 299",
    ),
    "a shape that overflows 64 bits": (
        set_at("tensors", "norm", "shape", to=[2**62, 2, 5]),
        "takes 184467440737095516160 in format 'fp32'",
    ),
    "a size beyond 64 bits": (set_at("tensors", "norm", "shape", to=[2**63]), "not a whole number above 0, below 2"),
    "a size of thousands of digits": (set_at("tensors", "norm", "shape", to=[10**4000] * 2), "below 2"),
    "a shape of lists in lists": (set_at("tensors", "norm", "shape", to=[nested(900)]), "not a whole number above 0"),
    "a shape of sizes that cancel out": (set_at("tensors", "norm", "shape", to=[-1, -5]), "not a whole number above 0"),
    "a shape with a zero": (set_at("tensors", "norm", "shape", to=[0]), "not a whole number above 0"),
    "a shape of truths": (set_at("tensors", "norm", "shape", to=[5, True]), "not a whole number above 0"),
    "a shape of nine sizes": (set_at("tensors", "norm", "shape", to=[5, *[1] * 8]), "one to eight sizes"),
    "a vector of trits": (set_at("tensors", "stack", "shape", to=[1470]), "is not a matrix"),
    "a missing part": (
        lambda header: header["tensors"]["stack"]["parts"].pop("scale"),
        "needs the parts codes and scale",
    ),
    "an unknown part": (set_at("tensors", "norm", "parts", "more", to=[0, 0, "0" * 64]), "needs the parts values"),
    "a part beyond the end": (lambda header: part(header).__setitem__(0, 6400), "ends at byte 6694 of"),
    "an offset beyond 64 bits": (lambda header: part(header).__setitem__(0, 2**63), "whole numbers from 0 on, below 2"),
    "an offset at the end of 64 bits": (lambda header: part(header).__setitem__(0, 2**63 - 64), "ends at byte"),
    "an offset of thousands of digits": (lambda header: part(header).__setitem__(0, 10**4299), "must be whole numbers"),
    "an offset below 0": (lambda header: part(header).__setitem__(0, -64), "must be whole numbers from 0 on"),
    "an offset that is no number": (lambda header: part(header).__setitem__(0, 64.0), "must be whole numbers"),
    "an unaligned part": (lambda header: part(header).__setitem__(0, 65), "starts at byte 65 instead of 64"),
    "a part on another": (lambda header: part(header).__setitem__(0, 0), "starts at byte 0, inside the part before it"),
    "a gap": (lambda header: header["tensors"].pop("norm"), "codes of tensor 'stack': starts at byte 64 instead of 0"),
    "bytes after the last part": (lambda header: header["files"].clear(), "bytes after the last part"),
    "a hash of other digits": (lambda header: part(header).__setitem__(2, "x" * 64), "SHA-256 is not 64 hex digits"),
    "a part that is no list": (set_at("tensors", "norm", "parts", "values", to=7), r"expected \[offset, bytes"),
    "an alias of nothing": (set_at("aliases", "head", to="nothing"), "alias 'head': stands for 'nothing', which is no"),
    "an alias of itself": (set_at("aliases", "head", to="head"), "stands for 'head', which is another alias"),
    "aliases in a circle": (set_at("aliases", to={"a": "b", "b": "a"}), "stands for 'b', which is another alias"),
    "an alias of lists in lists": (set_at("aliases", "head", to=nested(900)), "which is no tensor"),
    "an alias of a list": (set_at("aliases", "head", to=["stack"]), "which is no tensor"),
    "an alias that is a tensor": (set_at("aliases", "norm", to="stack"), "is the name of a tensor too"),
    "a file outside its folder": (
        lambda header: header["files"].update({"../up": header["files"].pop("tokenizer.json")}),
        "'../up' is not a plain file name",
    ),
    "a missing key": (lambda header: header.pop("run"), "header: run not found"),
    "an unknown key": (set_at("more", to=1), "unknown 'more'"),
    "a run that is a list": (set_at("run", to=[]), "run: expected an object, not list"),
    "a checkpoint without a step": (lambda header: header["checkpoint"].pop("step"), "checkpoint: needs step"),
    "a checkpoint of a step below 0": (set_at("checkpoint", "step", to=-1), "checkpoint: needs step"),
    "a step of thousands of digits": (set_at("checkpoint", "step", to=10**4000), "checkpoint: needs step"),
    "an architecture without a name": (set_at("architecture", to=""), "architecture: expected a text"),
    "a name with a line break": (
        lambda header: header["tensors"].update({"a\nb": header["tensors"].pop("norm")}),
        "is not a name",
    ),
}


def refusal(data: bytes, tmp_path: Path) -> str:
    path = tmp_path / "bad.penstock"
    path.write_bytes(data)
    with pytest.raises(ProblemError) as caught:
        Artifact.open(path).verify()
    assert len(caught.value.problems) == 1
    assert str(path) in caught.value.problems[0].where
    return str(caught.value)


@pytest.mark.parametrize("what", BAD_HEADERS)
def test_a_header_that_lies_is_refused_with_what_and_where(what: str, whole: bytes, tmp_path: Path) -> None:
    header, parts = taken_apart(whole)
    change, message = BAD_HEADERS[what]
    change(header)
    found = refusal(put_together(header, parts), tmp_path)
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "header: not valid JSON"),
        (b"\xff\xfe", "header: not valid JSON"),
        (b"[]", "header: expected an object"),
        (b'{"run": {}, "run": {}}', "the key 'run' occurs twice"),
        (b'{"run": NaN}', "NaN is no number"),
        (b'{"run": 1e999}', "1e999 is beyond every number"),
        (b'{"run": ' + b"9" * 5000 + b"}", "header: not valid JSON"),
        (b'{"run": "\\ud800"}', "header: not valid JSON"),
        (b"[" * 50_000 + b"]" * 50_000, "header: not valid JSON (its values are nested too deep)"),
        (b"[" + b"[]," * 200_000 + b"0]", "values are more than a file of"),
    ],
)
def test_a_header_that_is_no_sound_json_is_refused(text: bytes, message: str, tmp_path: Path) -> None:
    assert message in refusal(put_together(text, b""), tmp_path)


def test_a_file_of_another_kind_or_version_is_refused(whole: bytes, tmp_path: Path) -> None:
    assert "not an artifact of Penstock" in refusal(b"", tmp_path)
    assert "not an artifact of Penstock" in refusal(b"GGUF" + whole, tmp_path)
    later = whole[:8] + struct.pack("<I", 3) + whole[12:]
    found = refusal(later, tmp_path)
    assert "artifact of version 3, but this Penstock reads versions 1 and 2" in found
    assert "upgrade penstock-quant158" in found
    assert "export the run again" in refusal(whole[:8] + bytes(4) + whole[12:], tmp_path)


def test_a_header_of_a_gigabyte_is_refused(whole: bytes, tmp_path: Path) -> None:
    huge = whole[:12] + struct.pack("<I", 1 << 30) + whole[16:]
    assert "says that it has 1073741824 bytes; the most is 67108864" in refusal(huge, tmp_path)
    beyond = whole[:12] + struct.pack("<I", len(whole)) + whole[16:]
    assert f"but the file ends after {len(whole)}" in refusal(beyond, tmp_path)


def test_every_damaged_byte_is_noticed(whole: bytes, tmp_path: Path) -> None:
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        refusal(bytes(changed), tmp_path)


def test_a_file_that_is_cut_off_or_longer_is_refused(whole: bytes, tmp_path: Path) -> None:
    for length in (*range(0, 60), *range(60, len(whole), 97), len(whole) - 1):
        refusal(whole[:length], tmp_path)
    assert "end of the file: 1 bytes after the last part" in refusal(whole + b"\0", tmp_path)


def test_a_damaged_part_is_named(whole: bytes, tmp_path: Path) -> None:
    header, parts = taken_apart(whole)
    position = part(header)[0] + 5
    changed = parts[:position] + b"\1" + parts[position + 1 :]
    found = refusal(put_together(header, changed), tmp_path)
    assert "codes of tensor 'stack': its SHA-256 is not the one in the header" in found


def test_padding_that_is_not_zero_is_refused(whole: bytes, tmp_path: Path) -> None:
    header, parts = taken_apart(whole)
    assert "the padding is not zero" in refusal(put_together(header, parts[:20] + b"\1" + parts[21:]), tmp_path)


def test_an_unknown_name_is_refused_with_the_closest(tmp_path: Path) -> None:
    artifact = Artifact.open(write(tmp_path / "a.penstock"))
    with pytest.raises(ProblemError, match="no tensor 'stakc', did you mean 'stack'"):
        artifact.weight("stakc")
    with pytest.raises(ProblemError, match=r"no enclosed file 'data.json'; there are: tokenizer.json"):
        artifact.file("data.json")


BAD_CODES: dict[str, tuple[str, str, int, Any, str]] = {
    "five trits beyond 242": ("ternary-base3-row", "codes", 0, 243, "codes of up to 243"),
    "trits after the last": ("ternary-base3-row", "codes", -1, 242, "the last byte has more than the weight"),
    "a byte of -128": ("int8-rows", "codes", 3, -128, "a code is -128"),
    "a nibble of -8": ("int4-rows", "codes", 1, 0, "a code is -8"),
    "a scale of 0": ("ternary-base3-g64", "scale", 0, 0, "a scale is zero"),
    "a negative scale": ("ternary-base3-tensor", "scale", 0, -0.5, "a scale is zero, negative"),
    "a subnormal scale": ("int4-rows", "scale", 1, 2.0**-15, "subnormal"),
    "an infinite scale": ("int8-rows", "scale", 2, np.inf, "not finite"),
    "a scale that is no number": ("ternary-base3-g256", "scale", 0, np.nan, "not finite"),
}


def with_bad_codes(what: str, folder: Path) -> Artifact:
    """An artifact of sound hashes with one bad number."""
    format, array, index, value, _ = BAD_CODES[what]
    layouts = layouts_of(format, (3, 7))
    filling = {"ternary-base3-row": 121, "int8-rows": 0}.get(format, 136 if format == "int4-rows" else 121)
    arrays = {
        name: np.full(layout.shape, 0.5 if name == "scale" else filling, layout.dtype)
        for name, layout in layouts.items()
    }
    arrays[array].reshape(-1)[index] = value
    path = write(folder / "a.penstock", tensors=[Content("x", format, (3, 7), lambda: arrays)], aliases={"y": "x"})
    artifact = Artifact.open(path)
    artifact.verify()
    return artifact


@pytest.mark.parametrize("what", BAD_CODES)
def test_codes_and_scales_that_no_weight_has_are_refused_by_the_tensors_name(what: str, tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=f"tensor 'y': .*{BAD_CODES[what][-1]}"):
        with_bad_codes(what, tmp_path).weight("y")


# A decoder reads arrays, not weights. What is left, codes with bits to spare, is found as they are unpacked.
@pytest.mark.parametrize("what", [what for what in BAD_CODES if "scale" in what or what == "a byte of -128"])
def test_arrays_of_such_numbers_are_refused_too(what: str, tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=f"tensor 'y': .*{BAD_CODES[what][-1]}"):
        with_bad_codes(what, tmp_path).arrays("y")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_the_tensors_name(value: float, tmp_path: Path) -> None:
    arrays = {"values": np.array([1, value, 2], np.float32)}
    path = write(tmp_path / "a.penstock", tensors=[Content("x", "fp32", (3,), lambda: arrays)], aliases={})
    with pytest.raises(ProblemError, match="tensor 'x': a value is NaN or infinite"):
        Artifact.open(path).weight("x")


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    assert is_artifact(tmp_path / "none.penstock")  # whoever opens it says that it is not there
    assert not is_artifact(tmp_path)
    for path in (tmp_path / "none.penstock", tmp_path):
        with pytest.raises(ProblemError, match="cannot be read"):
            Artifact.open(path)


MEASURED = """
import resource, sys, tracemalloc
from pathlib import Path
from penstock.hooks.problems import ProblemError
from penstock.quant158.artifact import Artifact
tracemalloc.start()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Artifact.open(Path(sys.argv[1])).verify()
except ProblemError as error:
    print(error)
print(tracemalloc.get_traced_memory()[1], 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.parametrize("header", [b"[" + b"[]," * 5_000_000 + b"0]", b'{"run": "' + b"x" * 15_000_000 + b'"}'])
def test_no_file_makes_its_reader_allocate_more_than_its_size(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.penstock"
    path.write_bytes(put_together(header, b""))
    child = subprocess.run([sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True)
    said, figures = child.stdout.splitlines()
    assert said.startswith(f"{path}: header: ")
    traced, resident = map(int, figures.split())
    assert traced < 4 * len(header)  # the bytes, and the text that they are; not what brackets would become
    assert resident < 4 * len(header)


def test_shapes_that_promise_more_than_the_file_allocate_nothing(whole: bytes, tmp_path: Path) -> None:
    header, parts = taken_apart(whole)
    header["tensors"]["norm"]["shape"] = [2**40]
    path = tmp_path / "a.penstock"
    path.write_bytes(put_together(header, parts))
    child = subprocess.run([sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True)
    traced, _ = map(int, child.stdout.splitlines()[-1].split())
    assert traced < 1 << 20


# ---------------------------------------------------------------------------------------------- writing


def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.penstock")
    before = path.read_bytes()

    def fails() -> dict[str, np.ndarray]:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        write(path, tensors=[Content("x", "fp32", (3,), fails)], aliases={})
    assert path.read_bytes() == before
    with pytest.raises(ArithmeticError):
        write(tmp_path / "new" / "folder" / "a.penstock", tensors=[Content("x", "fp32", (3,), fails)], aliases={})
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ProblemError, match="the artifact cannot be written"):
        write(tmp_path / "file" / "a.penstock")


def test_arrays_that_are_not_the_format_s_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    wrong = [Content("x", "fp32", (3,), lambda: {"values": np.zeros(4, np.float32)})]
    with pytest.raises(ValueError, match=r"x: values is float32 \(4,\), not float32 \(3,\)"):
        write(tmp_path / "a.penstock", tensors=wrong, aliases={})


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_artifact import ARRAYS, write
from penstock.quant158.artifact import Content
def slow():
    print("writing", flush=True)
    time.sleep(60)
format, shape, arrays = ARRAYS["norm"]
write(Path(sys.argv[1]), tensors=[Content("norm", format, shape, lambda: arrays), Content("x", format, shape, slow)],
      aliases={})
"""


def test_a_killed_writer_leaves_no_file_and_the_next_one_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.penstock"
    command = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
    assert not path.exists()
    Artifact.open(write(path)).verify()
    assert list(tmp_path.iterdir()) == [path]
