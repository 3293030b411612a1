"""Writes one exchange in the formats of other tools, so that a prediction can be checked on GPUs or in a simulator.

| format | read by |
|---|---|
| `nccl-tests` | `alltoallv_perf`, through NCCL_TESTS_ALLTOALLV_MATRIX_FILE: bytes from row to column, one file |
| `goal` | LogGOPSim and htsim, after `txt2bin`: sends and receives of every rank, one file |
| `chakra` | ASTRA-sim and other readers of Chakra execution traces (schema 0.0.4): one `.N.et` file per rank |
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.hooks.problems import Problem, ProblemError, did_you_mean

ExportFormat = Literal["nccl-tests", "goal", "chakra"]

_SEND_NODE, _RECEIVE_NODE = 5, 6  # NodeType of Chakra's et_def.proto
_INT32, _INT64, _BOOL = 7, 9, 27  # the value's field in AttributeProto


def write_exchange(bytes_GG: ArrayLike, form: ExportFormat | str, path: Path) -> list[Path]:
    """Writes the exchange in which GPU i sends `bytes_GG[i, j]` to GPU j, in whole bytes; returns the files written.

    Bytes that stay on their GPU are left out. Raises `ProblemError` for an unknown format.
    """
    whole_GG = np.rint(np.array(bytes_GG, dtype=np.float64)).astype(np.int64)
    np.fill_diagonal(whole_GG, 0)
    if form not in get_args(ExportFormat):
        what = f"unknown format '{form}'"
        raise ProblemError(Problem("unknown-format", what, "export", did_you_mean(form, get_args(ExportFormat))))
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "nccl-tests":
        path.write_text("\n".join(" ".join(map(str, row)) for row in whole_GG.tolist()) + "\n", encoding="utf-8")
        return [path]
    if form == "goal":
        path.write_text("\n".join(_goal(whole_GG)) + "\n", encoding="utf-8")
        return [path]
    written = [path.with_name(f"{path.name}.{rank}.et") for rank in range(len(whole_GG))]
    for rank, file in enumerate(written):
        file.write_bytes(b"".join(_chakra(whole_GG, rank)))
    return written


def _goal(bytes_GG: NDArray[np.int64]) -> Iterable[str]:
    gpus = len(bytes_GG)
    yield f"num_ranks {gpus}"
    for rank in range(gpus):
        yield f"rank {rank} {{"
        for peer in _turns(rank, gpus):
            if bytes_GG[rank, peer]:
                yield f"s{peer}: send {bytes_GG[rank, peer]}b to {peer} tag {rank}"
            if bytes_GG[peer, rank]:
                yield f"r{peer}: recv {bytes_GG[peer, rank]}b from {peer} tag {peer}"
        yield "}"


def _chakra(bytes_GG: NDArray[np.int64], rank: int) -> Iterable[bytes]:
    """Length-delimited protobuf: the metadata, then one node per message, without dependencies."""
    yield _message(_text(1, "0.0.4"))
    number = 0
    for peer in _turns(rank, len(bytes_GG)):
        for node, name, source, target in (
            (_SEND_NODE, "send", rank, peer),
            (_RECEIVE_NODE, "receive", peer, rank),
        ):
            size = int(bytes_GG[source, target])
            if size:
                figures = (("comm_src", source), ("comm_dst", target), ("comm_tag", source))
                attributes = [
                    _attribute("is_cpu_op", _BOOL, 0),
                    _attribute("comm_size", _INT64, size),
                    *(_attribute(key, _INT32, value) for key, value in figures),
                ]
                head = _number(1, number) + _text(2, f"{name} {source} to {target}") + _number(3, node)
                yield _message(head + b"".join(attributes))
                number += 1


def _turns(rank: int, gpus: int) -> list[int]:
    return [(rank + turn) % gpus for turn in range(1, gpus)]


def _attribute(name: str, field: int, value: int) -> bytes:
    return _bytes(10, _text(1, name) + _number(field, value))


def _message(payload: bytes) -> bytes:
    return _varint(len(payload)) + payload


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _message(payload)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
