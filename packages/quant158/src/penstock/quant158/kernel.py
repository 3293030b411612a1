"""Products with packed ternary matrices on the processor, by the compiled library; numpy, no torch."""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import Problem, ProblemError
from penstock.quant158.native import Kernel, kernel, library

TRITS_PER_BYTE = 5
GROUPS = (64, 128, 256)
_ROW, _TENSOR = 0, -1
_NO_MEMORY = 2


class PackedMatrix:
    """A ternary matrix [out, in] as the kernels read it: two bits a weight, and its scales.

    `codes` are a file's: five trits a byte in C order, of which the matrix is those from `first_trit` on (an expert of
    a stack is not aligned to a byte). `scale` is fp16 [1, 1], [out, 1] or [out, ceil(in / 64, 128 or 256)]. Raises
    `ProblemError` for arrays that do not fit the shape, codes above 242, and scales that are not normal and positive.
    """

    def __init__(
        self,
        codes: NDArray[np.uint8],
        scale: NDArray[np.float16],
        shape: tuple[int, int],
        *,
        first_trit: int = 0,
        threads: int = 1,
    ) -> None:
        group = _group(scale, shape)
        last = first_trit + math.prod(shape)
        if codes.dtype != np.uint8 or codes.ndim != 1 or first_trit < 0 or last > codes.size * TRITS_PER_BYTE:
            raise _bad(f"codes {codes.dtype} {codes.shape} do not hold the trits {first_trit} to {last}")
        codes, scale = np.ascontiguousarray(codes), np.ascontiguousarray(scale)
        why = ctypes.c_int32()
        address = library().penstock_matrix_new(
            codes.ctypes.data, first_trit, 1, *shape, scale.ctypes.data, group, threads, ctypes.byref(why)
        )
        if not address and why.value == _NO_MEMORY:
            raise MemoryError(f"no memory for a packed matrix of shape {shape}")
        if not address:
            raise _bad("a code is above 242, or a scale is not a normal positive number of fp16")
        self.shape = shape
        self.address: int = address  # of native/packed.h's PackedMatrix
        weakref.finalize(self, library().penstock_matrix_free, address)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales in memory."""
        return library().penstock_matrix_bytes(self.address)

    def matvec(
        self, x: NDArray[np.float32], *, planes: int = 1, threads: int = 1, with_kernel: Kernel | None = None
    ) -> NDArray[np.float32]:
        """[out] for x [in]; see `matmul`."""
        return self.matmul(x[None], planes=planes, threads=threads, with_kernel=with_kernel)[0]

    def matmul(
        self, x: NDArray[np.float32], *, planes: int = 1, threads: int = 1, with_kernel: Kernel | None = None
    ) -> NDArray[np.float32]:
        """[n, out] for x [n, in], each row of x quantized to 8 bits (`planes=1`) or 16 (`planes=2`).

        Every kernel and number of threads gives the same bits, and a row's result is what it is alone. A row with NaN
        or infinity gives NaN.
        """
        if x.ndim != 2 or x.shape[1] != self.shape[1] or planes not in (1, 2) or threads < 1:
            raise ValueError(f"matmul: x {x.shape}, {planes} planes and {threads} threads for a matrix {self.shape}")
        x = np.ascontiguousarray(x, np.float32)
        out = np.empty((len(x), self.shape[0]), np.float32)
        by = with_kernel or kernel()
        arguments = (by.address, self.address, 0, x.ctypes.data, len(x), planes, threads, out.ctypes.data)
        if library().penstock_multiply(*arguments):
            raise MemoryError(f"no memory for products of {len(x)} vectors")
        return out


def _group(scale: NDArray[Any], shape: tuple[int, int]) -> int:
    """Columns that share a scale, as `StoredMatrix` of native/repack.h writes it."""
    rows, columns = shape
    if rows < 1 or columns < 1:
        raise _bad(f"a matrix of shape {shape} has no weights")
    if scale.dtype == np.float16:
        if scale.shape == (rows, 1):
            return _ROW
        if scale.shape == (1, 1):
            return _TENSOR
        for group in GROUPS:
            if scale.shape == (rows, -(-columns // group)):
                return group
    raise _bad(f"scales {scale.dtype} {scale.shape} do not fit a matrix of shape {shape}")


def _bad(what: str) -> ProblemError:
    return ProblemError(Problem("bad-weights", what, "", "pack the weight again"))
