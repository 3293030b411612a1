from __future__ import annotations

import io
import itertools
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from penstock.hooks.problems import ProblemError
from penstock.traces.trace import RoutingTrace

HEADERS = st.dictionaries(
    st.text().filter(lambda key: key not in ("format", "arrays")),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)),
    max_size=3,
)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def counted(expert_NLK: np.ndarray, experts: int) -> np.ndarray:
    """Assignments [L, E]."""
    layers = expert_NLK.shape[1]
    rows = [np.bincount(expert_NLK[:, row].ravel(), minlength=experts) for row in range(layers)]
    return np.array(rows, dtype=np.int64).reshape(layers, experts)


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    steps, layers, experts = draw(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 5)))
    header = draw(HEADERS)
    if draw(st.booleans()):
        counts = draw(arrays.arrays(np.int64, (steps, layers, experts), elements=st.integers(0, 2**62)))
        return RoutingTrace(counts, header)
    kind, k = draw(st.sampled_from([np.uint8, np.int16, np.int64])), draw(st.integers(1, experts))
    orders = st.lists(st.permutations(range(experts)), min_size=layers, max_size=layers)
    tokens = draw(st.lists(orders, max_size=4)) if layers and steps else []
    expert_NLK = np.array(tokens, dtype=kind).reshape(len(tokens), layers, experts)[:, :, :k]
    counts = np.zeros((steps, layers, experts), dtype=np.int64)
    counts[:1] = counted(expert_NLK, experts)
    return RoutingTrace(counts, header, expert_NLK)


def assert_same(left: RoutingTrace, right: RoutingTrace) -> None:
    assert left.header == right.header
    for one, other in ((left.counts_SLE, right.counts_SLE), (left.expert_NLK, right.expert_NLK)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, strict=True)


CHOSEN_NLK = np.array([[[0, 1], [2, 3], [3, 0]], [[1, 2], [3, 0], [2, 1]]], dtype=np.int16)


def example() -> RoutingTrace:
    """Two steps of a token each."""
    counts_SLE = np.stack([counted(token_NLK, 4) for token_NLK in (CHOSEN_NLK[:1], CHOSEN_NLK[1:])])
    return RoutingTrace(counts_SLE, {"model": "x", "k": 2}, CHOSEN_NLK)


@in_one_folder
@given(traces())
def test_a_trace_is_read_back_as_it_was_written(tmp_path: Path, trace: RoutingTrace) -> None:
    trace.save(tmp_path / "trace.npz")
    assert_same(RoutingTrace.load(tmp_path / "trace.npz"), trace)


def test_missing_folders_are_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "trace" / "train.npz"
    example().save(path)
    assert [each.name for each in path.parent.iterdir()] == ["train.npz"]


def test_a_failed_save_leaves_the_old_trace_whole(tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    example().save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        RoutingTrace(example().counts_SLE, {"model": object()}).save(path)
    broken = RoutingTrace(example().counts_SLE)
    object.__setattr__(broken, "counts_SLE", Unwritable())
    with pytest.raises(OSError, match="no space"):
        broken.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["trace.npz"]


class Unwritable:
    """An array that fails half-way through the writing, as a full disk does."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise OSError("no space left on device")


def test_a_reader_of_the_old_trace_is_not_disturbed_by_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    example().save(path)
    with path.open("rb") as reader:
        RoutingTrace(example().counts_SLE * 2).save(str(path))
        (tmp_path / "old.npz").write_bytes(reader.read())
    assert_same(RoutingTrace.load(tmp_path / "old.npz"), example())
    assert_same(RoutingTrace.load(str(path)), RoutingTrace(example().counts_SLE * 2))


def test_counts_over_all_steps_are_the_sum_of_steps() -> None:
    trace = example()
    assert trace.counts_LE.tolist() == [[sum(column) for column in zip(*rows, strict=True)]
                                        for rows in zip(*trace.counts_SLE.tolist(), strict=True)]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts_SLE": -np.ones((1, 1, 1), np.int64)}, "negative counts"),
        ({"counts_SLE": np.ones((1, 1, 1))}, "must be int64"),
        ({"counts_SLE": np.ones((1, 1), np.int64)}, "must be int64"),
        ({"header": {"format": 2}}, "`format`"),
        ({"header": {"arrays": 2}}, "`arrays`"),
        ({"header": {"layers": [0, 1]}}, "'layers' must be a list of 3 integers, one per layer"),
        ({"header": {"layers": [0, 1, -2]}}, "'layers' must be .* none below 0"),
        ({"header": {"layers": ["a", "b", "c"]}}, "'layers' must be a list of 3 integers"),
        ({"header": {"layers": 3}}, "'layers' must be a list of 3 integers"),
        ({"expert_NLK": np.zeros((1, 1), np.int64)}, "expert_NLK must be"),
        ({"expert_NLK": np.zeros((1, 2, 1), np.int64)}, r"expert_NLK must be integers \[tokens, 3, k\]"),
        ({"expert_NLK": np.zeros((1, 3, 1))}, "expert_NLK must be integers"),
        ({"header": {"domain_word_bits": [0.5]}}, "'domain_word_bits' must be a list of 3 numbers, one per layer"),
        ({"header": {"domain_word_bits": [0.5, float("nan"), 0.5]}}, "'domain_word_bits' must be"),
        ({"header": {"k": 0}}, "'k' .* is 0; it must be from 1 to 4"),
        ({"header": {"k": 5}}, "'k' .* is 5"),
        ({"header": {"k": [2, 2, -1]}}, r"'k' .* is \[2, 2, -1\]"),
        ({"header": {"k": True}}, "'k' .* is True"),
        ({"header": {"hidden_size": 0}}, "'hidden_size' is 0; it must be an integer of at least 1"),
        ({"header": {"hidden_size": 7.5}}, "'hidden_size' is 7.5"),
        ({"header": {"tokens": -1}}, "'tokens' is -1"),
        ({"header": {"dropped_warm_up": "x"}}, "'dropped_warm_up' is 'x'"),
        ({"header": {"steps": [1]}}, "'steps' must be a list of 2 integers"),
        ({"header": {"domains": ["a", 5]}}, "'domains' must be a list of 2 names"),
        ({"expert_NLK": CHOSEN_NLK[:1]}, r"row 0 the tokens' experts \(expert_NLK\) are not those"),
        ({"expert_NLK": CHOSEN_NLK[..., [0, 0]]}, "row 0 a token names an expert twice"),
        ({"expert_NLK": CHOSEN_NLK, "header": {"k": 1}}, "2 experts per token, but the header's 'k' is 1"),
        ({"expert_NLK": np.full((1, 3, 1), 4)}, r"outside 0\.\.3"),
        ({"expert_NLK": np.full((1, 3, 1), -1)}, r"outside 0\.\.3"),
    ],
)
def test_a_trace_that_contradicts_itself_cannot_be_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoutingTrace(**{"counts_SLE": example().counts_SLE, **changes})


def refused(path: Path) -> str:
    with pytest.raises(ProblemError) as caught:
        RoutingTrace.load(path)
    [problem] = caught.value.problems
    assert problem.where == str(path)
    return problem.code


def test_a_missing_trace_says_how_to_get_one(tmp_path: Path) -> None:
    assert refused(tmp_path / "trace.npz") == "missing-file"


def test_a_truncated_trace_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    example().save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert refused(path) == "bad-trace"


def test_every_single_damaged_byte_is_refused_or_without_effect(tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    example().save(path)
    whole = path.read_bytes()
    codes: set[str] = set()
    for position, mask in itertools.product(range(len(whole)), (1, 60, 255)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
        try:
            assert_same(RoutingTrace.load(path), example())
        except ProblemError as error:
            codes |= {problem.code for problem in error.problems}
    assert codes == {"bad-trace"}


@in_one_folder
@given(st.data())
def test_several_damaged_bytes_are_refused_or_without_effect(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "trace.npz"
    example().save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(2, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    codes: list[str] = []
    try:
        loaded = RoutingTrace.load(path)
    except ProblemError as error:
        loaded, codes = example(), [problem.code for problem in error.problems]
    assert codes in ([], ["bad-trace"])
    assert_same(loaded, example())


def archive(**members: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **members)
    return file.getvalue()


def as_header(text: bytes) -> Any:
    return np.frombuffer(text, dtype=np.uint8)


COUNTS = np.ones((1, 1, 2), np.int64)
PLAIN = io.BytesIO()
np.save(PLAIN, COUNTS)
EMPTY_ZIP = io.BytesIO()
zipfile.ZipFile(EMPTY_ZIP, "w").close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a zip",
        PLAIN.getvalue(),
        EMPTY_ZIP.getvalue(),
        archive(weights=COUNTS),
        archive(counts_SLE=COUNTS),
        archive(counts_SLE=COUNTS, header=as_header(b"not json")),
        archive(counts_SLE=COUNTS, header=as_header(b"[1]")),
        archive(counts_SLE=COUNTS, header=as_header(b"{}")),
        archive(counts_SLE=COUNTS, header=as_header(b'{"format": 99}')),
        archive(counts_SLE=-COUNTS, header=as_header(b'{"format": 1}')),
        archive(counts_SLE=COUNTS.astype(float), header=as_header(b'{"format": 1}')),
        archive(counts_SLE=np.array([object()]), header=as_header(b'{"format": 1}')),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.npz"
    path.write_bytes(content)
    assert refused(path) == "bad-trace"


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    assert refused(tmp_path) == "bad-trace"
