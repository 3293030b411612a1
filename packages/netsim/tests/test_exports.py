"""Exported exchanges, read back by small readers of each format."""

import re

import numpy as np
import pytest

from penstock.hooks import ProblemError
from penstock.netsim.exports import write_exchange

BYTES = np.array([[9, 100, 0, 300], [5, 9, 70000, 0], [0, 0, 9, 0], [1, 2, 3, 9]])
AWAY = BYTES * (1 - np.eye(4, dtype=int))


def test_an_nccl_tests_matrix_is_bytes_from_row_to_column(tmp_path):
    [path] = write_exchange(BYTES, "nccl-tests", tmp_path / "deep" / "matrix.txt")
    assert (np.loadtxt(path) == AWAY).all()


def test_goal_matches_every_send_with_a_receive(tmp_path):
    [path] = write_exchange(BYTES, "goal", tmp_path / "a.goal")
    text = path.read_text()
    assert text.startswith("num_ranks 4\nrank 0 {\n")
    sent, got = np.zeros((4, 4)), np.zeros((4, 4))
    for rank, body in re.findall(r"rank (\d+) \{\n(.*?)\}", text, re.DOTALL):
        for size, peer, tag in re.findall(r"send (\d+)b to (\d+) tag (\d+)", body):
            assert tag == rank
            sent[int(rank), int(peer)] += int(size)
        for size, peer, tag in re.findall(r"recv (\d+)b from (\d+) tag (\d+)", body):
            assert tag == peer
            got[int(peer), int(rank)] += int(size)
    assert (sent == AWAY).all()
    assert (got == AWAY).all()


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data: bytes) -> list[tuple[int, int | bytes]]:
    found, at = [], 0
    while at < len(data):
        key, at = varint(data, at)
        value, at = varint(data, at)
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        found.append((key >> 3, value))
    return found


def test_chakra_nodes_carry_source_target_and_size(tmp_path):
    paths = write_exchange(BYTES, "chakra", tmp_path / "trace")
    assert [path.name for path in paths] == [f"trace.{rank}.et" for rank in range(4)]
    found = {5: np.zeros((4, 4)), 6: np.zeros((4, 4))}
    for path in paths:
        data, at, messages = path.read_bytes(), 0, []
        while at < len(data):
            size, at = varint(data, at)
            messages.append(fields(data[at : at + size]))
            at += size
        assert messages[0] == [(1, b"0.0.4")]
        assert [dict(node)[1] for node in messages[1:]] == list(range(len(messages) - 1))
        for node in messages[1:]:
            attributes = {}
            for number, value in node:
                if number == 10:
                    (_, name), (_, figure) = fields(value)
                    attributes[name] = figure
            source, target = attributes[b"comm_src"], attributes[b"comm_dst"]
            found[dict(node)[3]][source, target] += attributes[b"comm_size"]
            assert attributes[b"comm_tag"] == source
    assert (found[5] == AWAY).all()
    assert (found[6] == AWAY).all()


def test_an_unknown_format_is_a_problem(tmp_path):
    with pytest.raises(ProblemError, match="did you mean 'goal'"):
        write_exchange(BYTES, "gaol", tmp_path / "a")
