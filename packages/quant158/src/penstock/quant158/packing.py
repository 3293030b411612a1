"""Trits in bytes: five base-3 digits each, 1.6 bits per weight (the information-theoretic bound is 1.585).

3 ** 5 = 243 fits in a byte, so 13 of 256 codes are unused; two bits per weight, the other common packing, takes a
quarter more. Every row starts on a new byte, so rows can be read and sliced separately.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TRITS_PER_BYTE = 5
_CODES = 3**TRITS_PER_BYTE


def packed_row_bytes(trits: int) -> int:
    """Bytes of one packed row.

    >>> packed_row_bytes(256)
    52
    """
    return -(-trits // TRITS_PER_BYTE)


def pack(trit: Tensor) -> Tensor:
    """[..., n] of -1, 0 and 1 in any dtype to uint8 [..., ceil(n / 5)]; the last byte of a row is filled with zeros.

    The first trit is the lowest digit: byte = sum over i of (trit[i] + 1) * 3 ** i. Raises `ValueError` for any other
    value.

    >>> pack(torch.tensor([[-1, -1, 0, 1, 1, 1]]))
    tensor([[225, 122]], dtype=torch.uint8)
    """
    if trit.ndim == 0:
        raise ValueError("pack: got a scalar; give a tensor with at least one dimension")
    if not bool(((trit == -1) | (trit == 0) | (trit == 1)).all()):
        raise ValueError("pack: values other than -1, 0 and 1; give the trits without their scale")
    padding = packed_row_bytes(trit.shape[-1]) * TRITS_PER_BYTE - trit.shape[-1]
    digit = F.pad(trit.to(torch.int8), (0, padding)) + 1
    digit = digit.to(torch.uint8).unflatten(-1, (packed_row_bytes(trit.shape[-1]), TRITS_PER_BYTE))
    return (digit * _powers(trit.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, trits: int) -> Tensor:
    """Inverse of `pack`: uint8 [..., ceil(trits / 5)] to int8 [..., trits].

    Raises `ValueError` if the row length does not match `trits`, or if a byte cannot come from `pack`.
    """
    if trits < 0 or packed.dtype != torch.uint8 or packed.ndim == 0 or packed.shape[-1] != packed_row_bytes(trits):
        raise ValueError(
            f"unpack: {trits} trits per row need uint8 [..., {packed_row_bytes(trits)}], "
            f"not {packed.dtype} {tuple(packed.shape)}"
        )
    if bool((packed >= _CODES).any()):
        raise ValueError(f"unpack: bytes above {_CODES - 1}; these are not packed trits")
    digit = packed.unsqueeze(-1) // _powers(packed.device) % 3
    return (digit.to(torch.int8) - 1).flatten(-2)[..., :trits]


def _powers(device: torch.device) -> Tensor:
    return torch.tensor([3**i for i in range(TRITS_PER_BYTE)], dtype=torch.uint8, device=device)
