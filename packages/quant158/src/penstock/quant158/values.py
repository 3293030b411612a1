"""Formats whose bytes are the weights themselves, as floating-point numbers of 32 or 16 bits; imports no torch.

A weight is stored as one array, `values`, in its own shape. numpy has no bf16, so an array of such numbers has their
bits, which are the upper half of those of fp32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FP32, FP16, BF16 = "fp32", "fp16", "bf16"
VALUES: Mapping[str, np.dtype[Any]] = {FP32: np.dtype("<f4"), FP16: np.dtype("<f2"), BF16: np.dtype("<u2")}
# The largest finite number of each 16-bit format.
LARGEST: Mapping[str, float] = {FP16: 65504.0, BF16: (2 - 2**-7) * 2.0**127}

_EXPONENT = 0x7F80  # of bf16; all ones in what is not finite


def widened(format: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """The numbers as fp32, which holds all of them exactly; those of fp32 are returned as they are.

    >>> widened("bf16", np.array([0x3F80, 0xC020], np.uint16))
    array([ 1. , -2.5], dtype=float32)
    """
    if format == BF16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def values_fault(format: str, values: NDArray[Any]) -> str | None:
    """What is wrong with numbers that no model has; None for sound ones."""
    finite = (values & _EXPONENT) != _EXPONENT if format == BF16 else np.isfinite(values)
    return None if bool(finite.all()) else "a value is NaN or infinite"


def array_fault(format: str, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, ...]) -> str | None:
    """Why the arrays cannot be those of a weight of this format and shape; None if they can."""
    if "values" not in arrays:
        return f"values not found among {', '.join(sorted(arrays)) or 'no arrays'}"
    values = arrays["values"]
    if values.dtype != VALUES[format] or values.shape != shape:
        found = f"{values.dtype} {values.shape}, not {VALUES[format]} {shape}"
        return f"values of a weight of shape {shape} in the format {format} is {found}"
    return values_fault(format, values)


def value_bytes(format: str, shape: tuple[int, ...]) -> int:
    """Bytes of a weight.

    >>> value_bytes("bf16", (4096, 256))
    2097152
    """
    return VALUES[format].itemsize * math.prod(shape)
