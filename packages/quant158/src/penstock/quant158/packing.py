"""Codes in bytes: trits as five base-3 digits, 1.6 bits each (the information-theoretic bound is 1.585), and nibbles.

3 ** 5 = 243 fits in a byte, so 13 of 256 codes are unused; two bits per trit, the other common packing, takes a quarter
more. A weight is one stream over all its rows: with rows padded to whole bytes, widths such as 128, 256 and 320 take
1.5 % more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from penstock.quant158.stored import TRITS_PER_BYTE

_CODES = 3**TRITS_PER_BYTE


def pack(trit: Tensor) -> Tensor:
    """-1, 0 and 1 of any shape and dtype to uint8 [ceil(n / 5)] in C order; the last byte is filled with zeros.

    The first trit is the lowest digit: byte = sum over i of (trit[i] + 1) * 3 ** i. Raises `ValueError` for any other
    value.

    >>> pack(torch.tensor([[-1, -1, 0], [1, 1, 1]]))
    tensor([225, 122], dtype=torch.uint8)
    """
    if not bool(((trit == -1) | (trit == 0) | (trit == 1)).all()):
        raise ValueError("pack: values other than -1, 0 and 1; give the trits without their scale")
    digit = _filled(trit, TRITS_PER_BYTE) + 1
    return (digit.to(torch.uint8) * _powers(trit.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `pack`: uint8 [ceil(n / 5)] to int8 of the shape.

    Raises `ValueError` if the length does not match the shape, or if a byte cannot come from `pack`.
    """
    count = math.prod(shape)
    expected = (-(-count // TRITS_PER_BYTE),)
    if packed.dtype != torch.uint8 or tuple(packed.shape) != expected:
        found = f"{packed.dtype} {tuple(packed.shape)}"
        raise ValueError(f"unpack: {count} trits need uint8 {expected}, not {found}")
    if bool((packed >= _CODES).any()):
        raise ValueError(f"unpack: bytes above {_CODES - 1}; these are not packed trits")
    digit = packed.unsqueeze(-1) // _powers(packed.device) % 3
    return (digit.to(torch.int8) - 1).flatten()[:count].view(tuple(shape))


def pack_nibbles(level: Tensor) -> Tensor:
    """Whole numbers from -7 to 7 of any shape to uint8 [ceil(n / 2)] in C order, the first in the low half of a byte,
    each plus 8; the last byte is filled with a zero.

    >>> pack_nibbles(torch.tensor([-7, 7, 1]))
    tensor([241, 137], dtype=torch.uint8)
    """
    low, high = (_filled(level, 2) + 8).to(torch.uint8).unbind(-1)
    return low | high << 4


def _filled(level: Tensor, per_byte: int) -> Tensor:
    """int8 [bytes, per_byte], zeros after the last value."""
    flat = level.to(torch.int8).flatten()
    return F.pad(flat, (0, -len(flat) % per_byte)).unflatten(0, (-1, per_byte) if len(flat) else (0, per_byte))


def _powers(device: torch.device) -> Tensor:
    return torch.tensor([3**i for i in range(TRITS_PER_BYTE)], dtype=torch.uint8, device=device)
