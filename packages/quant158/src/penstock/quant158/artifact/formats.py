"""The byte arrays of a tensor in an artifact: packed ones as `stored` has them, and fp32.

Shapes come from files, so everything here is computed in Python's integers, which cannot overflow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import ProblemError
from penstock.quant158 import stored
from penstock.quant158.stored import Shape

FP32 = "fp32"
FORMATS = (*stored.FORMATS, FP32)


@dataclass(frozen=True, slots=True)
class Layout:
    """An array as it lies in the file."""

    dtype: np.dtype[Any]
    shape: Shape

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def layouts_of(format: str, shape: Shape) -> dict[str, Layout]:
    """The arrays of a tensor by name, in the order in which a file has them. Raises `ValueError` for an unknown format,
    and for a shape that the format cannot have."""
    if format == FP32:
        return {"values": Layout(np.dtype("<f4"), shape)}
    try:
        codes = np.dtype("i1" if stored.format_of(format).coding == "int8" else "u1")
        scale = Layout(np.dtype("<f2"), stored.scale_shape(format, shape))
        return {"codes": Layout(codes, (stored.code_bytes(format, shape),)), "scale": scale}
    except ProblemError as error:
        raise ValueError(error.problems[0].what) from None


def fault_of(format: str, arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """What is wrong with arrays that no model has, whatever reads them: numbers that are not finite, scales that no
    packing writes, and codes of whole numbers beyond -127."""
    if format == FP32:
        return None if bool(np.isfinite(arrays["values"]).all()) else "a value is NaN or infinite"
    if fault := stored.scale_fault(arrays["scale"]):
        return fault
    if stored.format_of(format).coding == "int8":
        return stored.int8_fault(arrays["codes"])
    return None  # codes with bits to spare are checked as they are unpacked
