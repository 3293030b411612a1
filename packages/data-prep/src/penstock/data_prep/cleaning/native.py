"""The compiled library that signs texts: found, loaded and called."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import penstock.data_prep

_ABI = 2
_BUILD = "run `uv sync --reinstall-package penstock-data-prep` with a C++17 compiler"

_i32, _i64, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p


class Signing(ctypes.Structure):
    """`Signing` of native/api.h. Whoever fills it keeps the arrays alive."""

    _fields_ = (
        ("characters", _pointer),
        ("factors", _pointer),
        ("offsets", _pointer),
        ("permutations", _i64),
        ("size", _i64),
        ("scheme", _i32),
        ("hash", _i32),
        ("words", _i32),
        ("joined", _i32),
    )


# The numbers of native/api.h.
SCHEMES = {"affine32": 0, "affine64": 1, "legacy": 2}
HASHES = {"sha1": 0, "xxh32": 1}
BLOCK = 64
"""Factors and offsets are padded to a multiple of this."""

_SIGNATURES = {
    "penstock_abi": (_i32, []),
    "penstock_kernel": (_pointer, [_i32]),
    "penstock_kernel_name": (ctypes.c_char_p, [_pointer]),
    "penstock_sign": (_i32, [_pointer, _pointer, _pointer, _pointer, _i64, _pointer, _pointer]),
}


@cache
def kernels() -> dict[str, int]:
    """The kernels that this processor can run and their addresses, the fastest first; empty without the library,
    which is said once."""
    try:
        library = _library()
    except OSError as error:
        warnings.warn(f"numpy signs texts, which is slower: {error}; {_BUILD}", stacklevel=2)
        return {}
    found: dict[str, int] = {}
    while address := library.penstock_kernel(len(found)):
        found[library.penstock_kernel_name(address).decode()] = address
    return found


def sign(kernel: int, signing: Signing, texts: Sequence[str], signatures: NDArray[Any]) -> list[int]:
    """Writes signatures [N, permutations]; the numbers of the texts with a refused character, whose rows are undefined.

    Raises `MemoryError`.
    """
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    addresses = (ctypes.c_char_p * len(encoded))(*encoded)
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    refused = np.empty(len(encoded), np.uint8)
    assert signatures.flags.c_contiguous
    assert signatures.shape == (len(encoded), signing.permutations)
    of = (lengths.ctypes.data, len(encoded), signatures.ctypes.data, refused.ctypes.data)
    if _library().penstock_sign(kernel, ctypes.byref(signing), addresses, *of):
        raise MemoryError
    return np.flatnonzero(refused).tolist()


@cache
def _library() -> ctypes.CDLL:
    """Raises `OSError` where the library was not built, or is of another system or version."""
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    places = [Path(folder) / f"libpenstock_data_prep{suffix}" for folder in penstock.data_prep.__path__]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise OSError("the kernel was not built")
    library = ctypes.CDLL(str(file))
    if any(not hasattr(library, name) for name in _SIGNATURES) or library.penstock_abi() != _ABI:
        raise OSError(f"the kernel {file} is of another version")
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
