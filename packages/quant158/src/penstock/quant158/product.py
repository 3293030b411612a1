"""Products of torch tensors with packed ternary weights, by the compiled library: two bits a weight in memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from penstock.quant158.kernel import PackedMatrix, PackedStack
from penstock.quant158.native import kernel
from penstock.quant158.stored import FORMATS, Arrays, Shape

# A second thread is worth its start, about 30 us, from this many weights times rows on: 200 us of one core.
WORK_PER_THREAD = 1 << 22


class PackedProduct:
    """A `Product` (see `penstock.hooks.contracts`) with a stored weight [out, in] or [E, out, in], on the processor.

    Inputs are rounded to 8 bits where training rounded them, else to 16, whose error is below that of bf16. The kernel
    is the one that `PENSTOCK_KERNEL` names, or the fastest.
    """

    def __init__(self, arrays: Arrays, shape: Shape, input_bits: int | None) -> None:
        """`arrays` are `codes` and `scale` of a ternary format. Raises `ProblemError` if they do not fit the shape."""
        threads = torch.get_num_threads()
        codes, scale = arrays["codes"], arrays["scale"]
        self.weight = (
            PackedMatrix(codes, scale, (shape[0], shape[1]), threads=threads)
            if len(shape) == 2
            else PackedStack(codes, scale, (shape[0], shape[1], shape[2]), threads=threads)
        )
        self.planes = 1 if input_bits == 8 else 2
        self.kernel = kernel()

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales in memory."""
        return self.weight.nbytes

    def __call__(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        *rows, columns = x.shape
        x_NI, count = x.reshape(-1, columns).numpy(), math.prod(rows)
        options: dict[str, Any] = {"planes": self.planes, "with_kernel": self.kernel}
        if isinstance(self.weight, PackedMatrix):
            y = self.weight.matmul(x_NI, threads=self._threads(count), **options)
        else:
            assert counts is not None
            counts_E = counts.numpy()
            y = self.weight.matmul(x_NI, counts_E, threads=self._threads(int(counts_E.max())), **options)
        return torch.from_numpy(y).view(*rows, self.weight.shape[-2])

    def _threads(self, rows: int) -> int:
        """Of the product of one matrix; results do not depend on it."""
        work = rows * math.prod(self.weight.shape[-2:])
        return max(1, min(torch.get_num_threads(), work // WORK_PER_THREAD))


def has_product(format: str, shape: Shape, input_bits: int | None) -> bool:
    """Whether a `PackedProduct` computes what training did with a weight of this format."""
    return format in FORMATS and FORMATS[format].coding == "base3" and len(shape) in (2, 3) and input_bits in (None, 8)
