"""The byte arrays of a tensor in an artifact: codes and scales as `stored` has them, or numbers as `values` has them.

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
from penstock.quant158.values import FP32, VALUES, values_fault, widened

FORMATS = (*stored.FORMATS, *VALUES)
PACKED = tuple(each for each in FORMATS if each != FP32)
"""Formats of quantizers."""


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
    if format in VALUES:
        return {"values": Layout(VALUES[format], shape)}
    if format not in stored.FORMATS:
        raise ValueError(f"unknown format '{format}'; known: {', '.join(FORMATS)}")
    try:
        codes = np.dtype("i1" if stored.format_of(format).coding == "int8" else "u1")
        scale = Layout(np.dtype("<f2"), stored.scale_shape(format, shape))
        return {"codes": Layout(codes, (stored.code_bytes(format, shape),)), "scale": scale}
    except ProblemError as error:
        raise ValueError(error.problems[0].what) from None


def fault_of(format: str, arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """What is wrong with arrays that no model has, whatever reads them: numbers that are not finite, scales that no
    packing writes, and codes of whole numbers beyond -127."""
    if format in VALUES:
        return values_fault(format, arrays["values"])
    if fault := stored.scale_fault(arrays["scale"]):
        return fault
    if stored.format_of(format).coding == "int8":
        return stored.int8_fault(arrays["codes"])
    return None  # codes with bits to spare are checked as they are unpacked


def weight_of(format: str, arrays: Mapping[str, NDArray[Any]], shape: Shape) -> NDArray[np.float32]:
    """The weight of sound arrays, as fp32. Raises `ProblemError` for codes that the format does not have."""
    return widened(format, arrays["values"]) if format in VALUES else stored.unpacked(format, arrays, shape)
