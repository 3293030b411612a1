"""A recording is read without torch, runs no code, and is refused where anything in it is damaged."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from penstock.hooks.problems import ProblemError
from penstock.traces.reader import read_traces
from penstock.traces.sglang import load

SGLANG = Path(__file__).parent / "data" / "sglang.pt"


def rewritten(path: Path, **changes: bytes | None) -> Path:
    """A recording with some of its files changed, or without them (None)."""
    with zipfile.ZipFile(SGLANG) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = changes.get(name.removeprefix("sglang/"), source.read(name))
            if content is not None:
                target.writestr(name, content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ProblemError) as caught:
        read_traces(path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("bad-trace", str(path))
    return problem.what


def test_all_that_is_recorded_is_read() -> None:
    recording = load(SGLANG)
    assert recording.keys() == {"rank", "logical_count", "average_utilization_rate_over_window"}
    assert recording["logical_count"].dtype == np.int32


def test_numbers_of_the_other_byte_order_are_read(tmp_path: Path) -> None:
    numbers = np.arange(24, dtype=">i4").tobytes()
    path = rewritten(tmp_path / "a.pt", **{"data/0": numbers, "byteorder": b"big"})
    np.testing.assert_array_equal(load(path)["logical_count"].ravel(), np.arange(24))


def test_every_damaged_byte_is_refused_or_without_effect(tmp_path: Path) -> None:
    whole = SGLANG.read_bytes()
    expected = np.arange(24).reshape(2, 3, 4)
    path = tmp_path / "sglang.pt"
    codes: set[str] = set()
    for position in range(0, len(whole), 5):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 60]) + whole[position + 1 :])
        try:
            (trace,) = read_traces(path).values()
        except ProblemError as error:
            codes |= {problem.code for problem in error.problems}
        else:
            np.testing.assert_array_equal(trace.counts_SLE, expected)
    assert codes == {"bad-trace"}


def test_a_recording_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    whole = SGLANG.read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "a.pt").write_bytes(whole[:length])
        assert refused(tmp_path / "a.pt")


class Opens:
    """What runs code where it is unpickled without restriction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_recording_runs_no_code(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = rewritten(tmp_path / "a.pt", **{"data.pkl": pickle.dumps({"logical_count": Opens(trap)})})
    assert "which is not a tensor of counts" in refused(path)
    assert not trap.exists()


def test_a_tensor_outside_its_numbers_is_refused(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.pt", **{"data/0": np.arange(20, dtype=np.int32).tobytes()})
    assert "20 of its 24 numbers" in refused(path)
    with zipfile.ZipFile(SGLANG) as archive:
        pickled = archive.read("sglang/data.pkl")
    sizes = pickled.replace(b"K\x02K\x03K\x04\x87", b"K\x02K\x03K\xff\x87", 1)
    assert sizes != pickled
    assert "outside its 24 numbers" in refused(rewritten(path, **{"data.pkl": sizes}))


@pytest.mark.parametrize(
    ("content", "what"),
    [({"rank": 0}, "no `logical_count`"), ([1], "no `logical_count`"), ({"logical_count": 3}, "finite numbers")],
)
def test_a_recording_without_counts_says_how_to_record_them(tmp_path: Path, content: object, what: str) -> None:
    assert what in refused(rewritten(tmp_path / "a.pt", **{"data.pkl": pickle.dumps(content)}))


def test_a_zip_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    (tmp_path / "a.pt").write_bytes(file.getvalue())
    assert refused(tmp_path / "a.pt")
