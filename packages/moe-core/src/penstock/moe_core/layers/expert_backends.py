"""Ways to multiply rows, sorted by expert, with each expert's matrix, behind one signature.

`grouped`  one `grouped_mm` kernel. On a CPU fp32, bf16 and fp16 with rows of a multiple of 16 bytes, on CUDA bf16 from
           compute capability 8; no fp64 anywhere.
`batched`  pads every expert to the largest and takes one `bmm`: few kernels if there is no grouped one, at the price
           of the padding.
`loop`     one product per expert; supports everything. It never indexes `w[i]`: the backward of that allocates a whole
           [E, ...] gradient for each expert, 19 to 58 times slower at 160 experts; `unbind` does not.

`AUTO` chooses by what a kernel supports, never by trying. tests/benchmarks/experts.py times them.

Shape suffixes: N rows, E experts, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.hooks.contracts import Product

# Rows [N, I] sorted by expert, weights [E, O, I], rows of each expert [E] -> [N, O].
Multiply: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]

Operand: TypeAlias = Tensor | Product

# Without a grouped kernel, padding is worth its copies up to this many padded rows per real row.
MOST_PADDING = 1.5


@dataclass(frozen=True, slots=True)
class Backend:
    """`multiply`, and whether it supports these rows, weights and counts."""

    name: str
    multiply: Multiply
    takes: Callable[[Tensor, Tensor, Tensor], bool]

    def multiplied(self, x_NI: Tensor, weight_EOI: Operand, counts_E: Tensor) -> Tensor:
        """By the backend, or by what computes products with these weights itself."""
        if isinstance(weight_EOI, Tensor):
            return self.multiply(x_NI, weight_EOI, counts_E)
        return weight_EOI(x_NI, counts_E)


def grouped(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
    return F.grouped_mm(x_NI, weight_EOI.transpose(-2, -1), offs=counts_E.cumsum(0).to(torch.int32))


def batched(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
    experts, capacity = len(counts_E), int(counts_E.max())
    first_E = torch.arange(experts, device=x_NI.device) * capacity
    shift_N = (first_E - counts_E.cumsum(0) + counts_E).repeat_interleave(counts_E, output_size=len(x_NI))
    slot_N = torch.arange(len(x_NI), device=x_NI.device) + shift_N
    padded_ECI = (
        x_NI.new_zeros(experts * capacity, x_NI.shape[1]).index_copy(0, slot_N, x_NI).view(experts, capacity, -1)
    )
    return torch.bmm(padded_ECI, weight_EOI.transpose(-2, -1)).flatten(0, 1).index_select(0, slot_N)


def loop(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
    parts = zip(x_NI.split(counts_E.tolist()), weight_EOI.unbind(0), strict=True)
    return torch.cat([F.linear(x, weight) for x, weight in parts])


def _grouped_takes(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> bool:
    aligned = all(size * x_NI.element_size() % 16 == 0 for size in weight_EOI.shape[1:])
    if x_NI.device.type == "cpu":
        return aligned and x_NI.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return (
        aligned
        and x_NI.device.type == "cuda"
        and x_NI.dtype == torch.bfloat16
        and torch.cuda.get_device_capability(x_NI.device)[0] >= 8
    )


def _padding_is_small(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> bool:
    return len(counts_E) * int(counts_E.max()) <= MOST_PADDING * len(x_NI)


def _always(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> bool:
    return True


# In order of preference.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("grouped", grouped, _grouped_takes),
        Backend("batched", batched, _padding_is_small),
        Backend("loop", loop, _always),
    )
}


def choose(x_NI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Backend:
    """The first backend that supports these operands."""
    return next(backend for backend in BACKENDS.values() if backend.takes(x_NI, weight_EOI, counts_E))
