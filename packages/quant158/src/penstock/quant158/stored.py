"""Packed weights as numpy arrays: the formats, their sizes, and how to read them without torch.

A weight [..., out, in] is stored as two arrays. `codes` is one stream over all its numbers in C order, without padding
by row; `scale` holds fp16 numbers, one for each group of the format. A weight is code * scale, computed in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import Problem, ProblemError

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Shape: TypeAlias = tuple[int, ...]
Group: TypeAlias = Literal["tensor", "row", 64, 128, 256]
GROUPS: tuple[Group, ...] = ("tensor", "row", 64, 128, 256)

TRITS_PER_BYTE = 5
# fp16 holds these without loss of precision; a scale outside has rounded to a subnormal number, zero or infinity.
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-14, 65504.0


@dataclass(frozen=True, slots=True)
class Format:
    """How codes are written, and what shares one scale."""

    coding: Literal["base3", "int8", "int4"]
    group: Group


def ternary_format(group: Group) -> str:
    """Name of the ternary format with such groups.

    >>> ternary_format(128)
    'ternary-base3-g128'
    """
    return f"ternary-base3-{group if isinstance(group, str) else f'g{group}'}"


FORMATS: Mapping[str, Format] = {
    **{ternary_format(group): Format("base3", group) for group in GROUPS},
    "int8-rows": Format("int8", "row"),
    "int4-rows": Format("int4", "row"),
}


def code_bytes(name: str, shape: Shape) -> int:
    """Bytes of the codes of a weight, which are the numbers in the array `codes`.

    >>> code_bytes("ternary-base3-row", (3, 7)), code_bytes("int4-rows", (3, 7))
    (5, 11)
    """
    per_byte = {"base3": TRITS_PER_BYTE, "int8": 1, "int4": 2}[format_of(name).coding]
    return -(-math.prod(shape) // per_byte)


def scale_shape(name: str, shape: Shape) -> Shape:
    """Shape of the array `scale`.

    >>> scale_shape("ternary-base3-tensor", (8, 64, 200)), scale_shape("ternary-base3-g128", (8, 64, 200))
    ((8, 1, 1), (8, 64, 2))
    """
    group = format_of(name).group
    if len(shape) < 2:
        raise _bad(f"a weight of shape {shape} is not a matrix")
    if group == "tensor":
        return (*shape[:-2], 1, 1)
    return (*shape[:-1], 1 if group == "row" else -(-shape[-1] // group))


def packed_bytes(name: str, shape: Shape) -> int:
    """Bytes of the codes and scales of a weight.

    >>> packed_bytes("ternary-base3-tensor", (100, 256))
    5122
    """
    return code_bytes(name, shape) + 2 * math.prod(scale_shape(name, shape))


def unpacked(name: str, arrays: Arrays, shape: Shape) -> NDArray[np.float32]:
    """The weight [..., out, in] that training computed with, as fp32. Raises `ProblemError` for arrays that cannot be
    those of a weight of this format and shape."""
    _check_arrays(name, arrays, shape)
    codes, scale = arrays["codes"], arrays["scale"]
    count = math.prod(shape)
    level = {"base3": _trits, "int8": _int8, "int4": _int4}[format_of(name).coding](codes, count)
    return _scaled(level.reshape(shape), scale.astype(np.float32), format_of(name).group)


def format_of(name: str) -> Format:
    """The format of a name; raises `ProblemError` for an unknown one."""
    if name not in FORMATS:
        raise _bad(f"unknown format '{name}'; known: {', '.join(FORMATS)}")
    return FORMATS[name]


def _check_arrays(name: str, arrays: Arrays, shape: Shape) -> None:
    if missing := [key for key in ("codes", "scale") if key not in arrays]:
        raise _bad(f"{' and '.join(missing)} not found among {', '.join(sorted(arrays)) or 'no arrays'}")
    expected = {
        "codes": ((code_bytes(name, shape),), np.dtype(np.int8 if format_of(name).coding == "int8" else np.uint8)),
        "scale": (scale_shape(name, shape), np.dtype(np.float16)),
    }
    for key, (of_shape, of_type) in expected.items():
        array = arrays[key]
        if array.shape != of_shape or array.dtype != of_type:
            found = f"{array.dtype} {array.shape}, not {of_type} {of_shape}"
            raise _bad(f"{key} of a weight of shape {shape} in the format {name} is {found}")
    if fault := scale_fault(arrays["scale"]):
        raise _bad(fault)


def scale_fault(scale: NDArray[np.float16]) -> str | None:
    """What is wrong with scales that no packing writes; None for sound ones."""
    if bool((np.isfinite(scale) & (scale >= np.float16(SMALLEST_SCALE))).all()):
        return None
    return "a scale is zero, negative, subnormal in fp16 or not finite"


def _trits(codes: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    if codes.max(initial=0) >= len(_TRITS):
        raise _bad(f"codes of up to {codes.max()}, but five trits make at most {len(_TRITS) - 1}")
    return _without_filling(np.take(_TRITS, codes, axis=0, mode="clip").reshape(-1), count)


def _table_of_trits() -> NDArray[np.int8]:
    """The five trits of each byte, the lowest digit first."""
    code = np.arange(3**TRITS_PER_BYTE)[:, None]
    return (code // 3 ** np.arange(TRITS_PER_BYTE) % 3 - 1).astype(np.int8)


_TRITS = _table_of_trits()


def _int8(codes: NDArray[np.int8], count: int) -> NDArray[np.int8]:
    if fault := int8_fault(codes):
        raise _bad(fault)
    return codes


def int8_fault(codes: NDArray[np.int8]) -> str | None:
    """What is wrong with codes of 8 bits; None for sound ones."""
    return "a code is -128, and the format ends at -127" if codes.min(initial=0) < -127 else None


def _int4(codes: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    nibble = np.stack((codes & 15, codes >> 4), axis=-1).reshape(-1)
    if nibble.min(initial=8) < 1:
        raise _bad("a code is -8, and the format ends at -7")
    return _without_filling(nibble.astype(np.int8) - 8, count)


def _without_filling(level: NDArray[np.int8], count: int) -> NDArray[np.int8]:
    """The last byte is filled with zeros, so that equal weights have equal bytes."""
    if level[count:].any():
        raise _bad("the last byte has more than the weight")
    return level[:count]


def _scaled(level: NDArray[np.int8], scale: NDArray[np.float32], group: Group) -> NDArray[np.float32]:
    """One pass that writes the weight: with the scales repeated for each number it takes half as long again."""
    weight = np.empty(level.shape, np.float32)
    if isinstance(group, str):
        return np.multiply(level, scale, out=weight)
    if level.shape[-1] % group == 0:
        groups = (*scale.shape, group)
        np.multiply(level.reshape(groups), scale[..., None], out=weight.reshape(groups))
        return weight
    return np.multiply(level, np.repeat(scale, group, axis=-1)[..., : level.shape[-1]], out=weight)


def _bad(what: str) -> ProblemError:
    return ProblemError(Problem("bad-weights", what, "", "pack the weight again"))
