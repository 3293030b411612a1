"""Packed ternary weights as numpy arrays: what a file holds, and how to read it without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.hooks.problems import Problem, ProblemError

# Five trits per byte, each row starts on a new byte, little-endian fp32 scales.
FORMAT = "ternary-base3-rows-fp32"
TRITS_PER_BYTE = 5
Arrays: TypeAlias = Mapping[str, NDArray[Any]]


def unpacked(arrays: Arrays, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """trit * scale of `codes` uint8 [..., out, ceil(in / 5)] and `scale` fp32 [..., 1 or out, 1]; raises `ProblemError`
    for arrays that do not match the shape."""
    if missing := [name for name in ("codes", "scale") if name not in arrays]:
        raise _bad(f"{' and '.join(missing)} not found among {', '.join(sorted(arrays)) or 'no arrays'}")
    if len(shape) < 2:
        raise _bad(f"a weight of shape {shape} is not a matrix")
    codes, scale = arrays["codes"], arrays["scale"]
    packed_shape = (*shape[:-1], -(-shape[-1] // TRITS_PER_BYTE))
    scale_shapes = ((*shape[:-2], 1, 1), (*shape[:-1], 1))
    fits = codes.shape == packed_shape and scale.shape in scale_shapes
    if not fits or codes.dtype != np.uint8 or scale.dtype != np.float32:
        found = f"codes {codes.dtype} {codes.shape} and scales {scale.dtype} {scale.shape}"
        raise _bad(f"{found} do not fit a weight of shape {shape}")
    if codes.max(initial=0) >= 3**TRITS_PER_BYTE:
        raise _bad(f"codes of up to {codes.max()}, but five trits make at most {3**TRITS_PER_BYTE - 1}")
    if not bool((np.isfinite(scale) & (scale > 0)).all()):
        raise _bad("a scale is not a finite number above 0")
    powers = 3 ** np.arange(TRITS_PER_BYTE, dtype=np.uint8)
    trit = (codes[..., None] // powers % 3).astype(np.int8) - 1
    flat = trit.reshape(*shape[:-1], packed_shape[-1] * TRITS_PER_BYTE)[..., : shape[-1]]
    return flat.astype(np.float32) * scale


def packed_bytes(shape: tuple[int, ...], scales: int) -> int:
    """Bytes of the codes and of `scales` scales."""
    return math.prod(shape[:-1]) * -(-shape[-1] // TRITS_PER_BYTE) + 4 * scales


def _bad(what: str) -> ProblemError:
    return ProblemError(Problem("bad-weights", what, "", "pack the weight again"))
