"""Products with packed ternary matrices on the processor, by the compiled library; numpy, no torch."""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any, NoReturn

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
        self.shape = shape
        self._packed = _Packed(codes, scale, first_trit, (1, *shape), group, threads)

    @property
    def address(self) -> int:
        """Of native/packed.h's PackedMatrix."""
        return self._packed.address

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales in memory."""
        return self._packed.nbytes

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
        return self._packed.times(x, np.array([len(x)]), planes, threads, with_kernel or kernel())


class PackedStack:
    """Ternary matrices [E, out, in] that are one stored tensor: see `PackedMatrix`. `scale` is fp16 [E, 1, 1],
    [E, out, 1] or [E, out, ceil(in / 64, 128 or 256)]."""

    def __init__(
        self,
        codes: NDArray[np.uint8],
        scale: NDArray[np.float16],
        shape: tuple[int, int, int],
        *,
        threads: int = 1,
    ) -> None:
        count, *matrix = shape
        if count < 1 or scale.ndim != 3 or len(scale) != count:
            raise _bad(f"scales {scale.dtype} {scale.shape} do not fit a stack of shape {shape}")
        group = _group(scale[0], (matrix[0], matrix[1]))
        if codes.dtype != np.uint8 or codes.ndim != 1 or math.prod(shape) > codes.size * TRITS_PER_BYTE:
            raise _bad(f"codes {codes.dtype} {codes.shape} do not hold a stack of shape {shape}")
        self.shape = shape
        self._packed = _Packed(codes, scale, 0, shape, group, threads)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales in memory."""
        return self._packed.nbytes

    def matmul(
        self,
        x: NDArray[np.float32],
        counts: NDArray[np.int64],
        *,
        planes: int = 1,
        threads: int = 1,
        with_kernel: Kernel | None = None,
    ) -> NDArray[np.float32]:
        """[n, out] for x [n, in], of which the first `counts[0]` rows are multiplied with the first matrix, and so on.
        The bits are those of `PackedMatrix.matmul`."""
        count, _, columns = self.shape
        fits = x.ndim == 2 and x.shape[1] == columns and counts.shape == (count,)
        if not fits or (counts < 0).any() or counts.sum() != len(x) or planes not in (1, 2) or threads < 1:
            what = f"matmul: x {x.shape}, {counts.sum()} rows of {counts.shape} matrices, {planes} planes"
            raise ValueError(f"{what} and {threads} threads for a stack {self.shape}")
        return self._packed.times(x, counts, planes, threads, with_kernel or kernel())


class _Packed:
    """A `PackedMatrix` of native/packed.h, which is freed with this object; arguments have been checked."""

    def __init__(
        self,
        codes: NDArray[np.uint8],
        scale: NDArray[np.float16],
        first_trit: int,
        shape: tuple[int, int, int],
        group: int,
        threads: int,
    ) -> None:
        codes, scale = np.ascontiguousarray(codes), np.ascontiguousarray(scale)
        why = ctypes.c_int32()
        address = library().penstock_matrix_new(
            codes.ctypes.data, first_trit, *shape, scale.ctypes.data, group, threads, ctypes.byref(why)
        )
        if not address and why.value == _NO_MEMORY:
            raise MemoryError(f"no memory for packed matrices of shape {shape}")
        if not address:
            raise _bad("a code is above 242, or a scale is not a normal positive number of fp16")
        self.rows = shape[1]
        self.address: int = address
        weakref.finalize(self, library().penstock_matrix_free, address)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Packed:
        return self  # it never changes, and a copy of the address would outlive what it points to

    def __reduce__(self) -> NoReturn:
        raise TypeError("packed matrices are memory of this process; store their codes and scales")

    @property
    def nbytes(self) -> int:
        return library().penstock_matrix_bytes(self.address)

    def times(
        self, x: NDArray[np.float32], counts: NDArray[np.int64], planes: int, threads: int, by: Kernel
    ) -> NDArray[np.float32]:
        x, counts = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(counts, np.int64)
        out = np.empty((len(x), self.rows), np.float32)
        arguments = (counts.ctypes.data, x.ctypes.data, planes, threads, out.ctypes.data)
        if library().penstock_multiply(by.address, self.address, *arguments):
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
