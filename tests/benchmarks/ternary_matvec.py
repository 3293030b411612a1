"""Ternary matrix times vector: the package's kernel beside a well-written AVX2 one, and beside what memory can deliver.

The peer, in `ternary_matvec.cpp`, is a product by rows with `maddubs` in the way of llama.cpp's TQ2_0 and has one scale
a row; ours has one for 128 columns. Both multiply the same weights with the same int8 vector, whose quantization is not
timed. Bytes are codes and scales. Threads wait for one another after each product; times are medians of blocks of them.

The bars are those of AVX-512 VNNI; with another kernel (`PENSTOCK_KERNEL`) the table stands alone. Needs a C++ compiler
and a processor with AVX2. At 256 MiB give it 2 GB of memory.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import Bar, finish, interleaved, json_option, medians, rounds
from numpy.typing import NDArray

from penstock.quant158 import native
from penstock.quant158.kernel import PackedMatrix

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "packages" / "quant158" / "native"
GROUP = 128
IN_CACHE = [(256, 256), (512, 512), (1024, 1024), (2048, 2048)]
MEBIBYTES_4_TO_8 = [(4096, 4096), (4096, 8192)]
IN_MEMORY = (32768, 32768)
WORTH_TWO_THREADS = 1 << 20  # weights: below, waiting takes as long as the work
A_ROUND = 4e6  # bytes of codes that a round reads, where they are fewer
_pointer, _i64 = ctypes.c_void_p, ctypes.c_int64


class Peer(ctypes.Structure):
    """The peer's matrix, as ternary_matvec.cpp has it."""

    _fields_ = [("codes", _pointer), ("scales", _pointer), ("rows", _i64), ("columns", _i64)]


@dataclass(frozen=True, slots=True)
class Case:
    """One matrix in both layouts, with the vector."""

    matrix: PackedMatrix
    peer: Peer
    x: NDArray[np.int8]
    prefix: NDArray[np.int32]
    out: NDArray[np.float32]
    keeps: tuple[Any, ...]  # the arrays that `peer` points to

    @property
    def weights(self) -> int:
        return self.matrix.shape[0] * self.matrix.shape[1]


def compiled(folder: Path) -> ctypes.CDLL:
    """The timing functions, built for this machine."""
    file = folder / "ternary_matvec.so"
    flags = ["-std=c++17", "-O3", "-mavx2", "-fPIC", "-shared", "-pthread", f"-I{NATIVE}"]
    subprocess.run(["c++", *flags, "-o", str(file), str(HERE / "ternary_matvec.cpp")], check=True)
    library = ctypes.CDLL(str(file))
    library.peer_pack.argtypes = [_pointer, _i64, _i64, _pointer]
    arguments = {
        "time_peer": [_pointer, _pointer, ctypes.c_int32, ctypes.c_float, _pointer, _i64, _i64],
        "time_kernel": [_pointer, _pointer, _pointer, _pointer, ctypes.c_float, _pointer, _i64, _i64],
        "time_read": [_pointer, _i64, _i64, _i64],
    }
    for name, types in arguments.items():
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_double, types
    return library


def case_of(library: ctypes.CDLL, rows: int, columns: int) -> Case:
    random = np.random.default_rng(0)
    trits = random.integers(0, 3**5, -(-rows * columns // 5), dtype=np.uint8)
    scale = random.uniform(0.5, 1, (rows, 1)).astype(np.float16)
    matrix = PackedMatrix(trits, np.repeat(scale, columns // GROUP, axis=1), (rows, columns))
    codes, scales = np.empty(rows * columns // 4, np.uint8), scale.astype(np.float32)
    library.peer_pack(trits.ctypes.data, rows, columns, codes.ctypes.data)
    x = random.integers(-127, 128, columns, dtype=np.int8)
    prefix = np.concatenate([[0], np.cumsum(x.reshape(-1, 64).sum(1, dtype=np.int32))]).astype(np.int32)
    peer = Peer(codes.ctypes.data, scales.ctypes.data, rows, columns)
    return Case(matrix, peer, x, prefix, np.empty(rows, np.float32), (codes, scales))


def measured(library: ctypes.CDLL, case: Case, threads: int, rounds: int) -> dict[str, Any]:
    """A row of the table; raises `AssertionError` where the two products differ."""
    repeats = max(1, int(A_ROUND / (case.weights / 4)))
    kernel, matrix, out = native.kernel().address, case.matrix.address, case.out.ctypes.data
    x, prefix, total = case.x.ctypes.data, case.prefix.ctypes.data, int(case.prefix[-1])
    peer = ctypes.addressof(case.peer)
    cases: dict[str, Callable[[], float]] = {
        "kernel": lambda: library.time_kernel(kernel, matrix, x, prefix, 1.0, out, threads, repeats),
        "peer": lambda: library.time_peer(peer, x, total, 1.0, out, threads, repeats),
        "read": lambda: library.time_read(matrix, 0, threads, repeats),
        "read with prefetch": lambda: library.time_read(matrix, 8192, threads, repeats),
    }
    check(cases, case)
    seconds = {name: each / repeats for name, each in medians(cases, rounds=rounds).items()}
    read = min(seconds["read"], seconds["read with prefetch"])
    return {
        "rows": case.matrix.shape[0],
        "columns": case.matrix.shape[1],
        "threads": threads,
        "us": 1e6 * seconds["kernel"],
        "Gweights/s": case.weights / seconds["kernel"] / 1e9,
        "peer Gweights/s": case.weights / seconds["peer"] / 1e9,
        "over the peer": seconds["peer"] / seconds["kernel"],
        "read GB/s": case.matrix.nbytes / read / 1e9,
        "share of the read": read / seconds["kernel"],
    }


def check(cases: dict[str, Callable[[], float]], case: Case) -> None:
    cases["kernel"]()
    ours = case.out.copy()
    cases["peer"]()
    assert np.allclose(ours, case.out, rtol=1e-4, atol=1e-4 * float(np.abs(ours).max())), "the two products differ"


def repack_rate(rounds: int) -> float:
    """Gweights/s of one core from a file's five trits a byte to the kernel's layout."""
    rows, columns = MEBIBYTES_4_TO_8[-1]
    codes = np.random.default_rng(0).integers(0, 3**5, -(-rows * columns // 5), dtype=np.uint8)
    scale = np.ones((rows, columns // GROUP), np.float16)
    seconds = interleaved({"repack": lambda: PackedMatrix(codes, scale, (rows, columns))}, rounds=rounds)
    return rows * columns / seconds["repack"] / 1e9


def bars_of(rows: list[dict[str, Any]], repack: float) -> list[Bar]:
    def least(name: str, threads: int, shapes: list[tuple[int, int]]) -> float:
        return min(row[name] for row in rows if row["threads"] == threads and (row["rows"], row["columns"]) in shapes)

    shared = [shape for shape in IN_CACHE + MEBIBYTES_4_TO_8 if shape[0] * shape[1] >= WORTH_TWO_THREADS]
    return [
        Bar("over the peer, 256x256 to 2048x2048", least("over the peer", 1, IN_CACHE), 1.9),
        Bar("over the peer, 4 to 8 MiB", least("over the peer", 1, MEBIBYTES_4_TO_8), 1.6),
        Bar("over the peer with two threads, 256 KiB to 8 MiB", least("over the peer", 2, shared), 1.5),
        Bar("share of the read bandwidth at 256 MiB", least("share of the read", 1, [IN_MEMORY]), 0.85),
        Bar("Gweights/s of repacking, one core", repack, 1.0),
    ]


@click.command()
@rounds(41)
@json_option
def main(rounds: int, as_json: bool) -> None:
    name, rows = native.kernel().name, []
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(Path(folder))
        for shape in [*IN_CACHE, *MEBIBYTES_4_TO_8, IN_MEMORY]:
            case = case_of(library, *shape)
            few = max(3, rounds // 5) if shape == IN_MEMORY else rounds
            rows += [measured(library, case, threads, few) for threads in (1, 2)]
    repack = repack_rate(max(3, rounds // 5))
    bars = bars_of(rows, repack) if name == "avx512vnni" else []
    facts = {"kernel": name, "rounds": rounds, "seconds": round(time.perf_counter() - begun)}
    finish("ternary_matvec", rows, bars, as_json, **facts)


if __name__ == "__main__":
    main()
