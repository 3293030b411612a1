"""The compiled library: found, loaded, and the fastest of its kernels that this machine can run.

A kernel is the code of one instruction set; all give the same bits. `PENSTOCK_KERNEL`, or an argument, forces one.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import penstock.quant158
from penstock.hooks.problems import Problem, ProblemError, did_you_mean

VARIABLE = "PENSTOCK_KERNEL"
KERNELS = ("avx512vnni", "avx2", "neon", "portable")
"""Every kernel that there is, so that a wrong name is known as one where no library was built."""
_ABI = 2
MISSING = "missing-kernel"  # code of the problem
BUILD = "run `uv sync --reinstall-package penstock-quant158` with a C++17 compiler"

_i32, _i64, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
# Results and arguments of native/api.h; arrays are passed by address.
_SIGNATURES = {
    "penstock_abi": (_i32, []),
    "penstock_kernel_name": (ctypes.c_char_p, [_i32]),
    "penstock_kernel": (_pointer, [ctypes.c_char_p]),
    "penstock_self_test": (_i32, [_pointer]),
    "penstock_matrix_new": (
        _pointer,
        [_pointer, _i64, _i64, _i64, _i64, _pointer, _i64, _i64, ctypes.POINTER(_i32)],
    ),
    "penstock_matrix_free": (None, [_pointer]),
    "penstock_matrix_bytes": (_i64, [_pointer]),
    "penstock_multiply": (_i32, [_pointer, _pointer, _pointer, _pointer, _i64, _i64, _pointer]),
    # native/decoder_api.h
    "penstock_decoder_new": (_pointer, [_pointer, _pointer, _i64, ctypes.POINTER(_i32), ctypes.POINTER(_i64)]),
    "penstock_decoder_free": (None, [_pointer]),
    "penstock_decoder_bytes": (_i64, [_pointer]),
    "penstock_text_new": (_pointer, [_pointer, _i64]),
    "penstock_text_free": (None, [_pointer]),
    "penstock_text_cut": (None, [_pointer, _i64]),
    "penstock_text_seed": (None, [_pointer, ctypes.c_uint64]),
    "penstock_text_read": (_i32, [_pointer, _pointer, _i64, _pointer]),
    "penstock_text_next": (_i32, [_pointer, _pointer, _i64, _pointer, _pointer]),
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One instruction set's code in the library."""

    name: str
    address: int


def built() -> bool:
    """Whether the package was built with a compiler. Raises `ProblemError` if `PENSTOCK_KERNEL` names no kernel."""
    if asked := os.environ.get(VARIABLE):
        _require_known(asked, VARIABLE)
    return _file() is not None


def usable() -> bool:
    """Whether the library was built, for this system and version."""
    try:
        return built() and library() is not None
    except ProblemError as error:
        if error.problems[0].code != MISSING:
            raise
        return False


@cache
def library() -> ctypes.CDLL:
    """The library with the types of its functions; raises `ProblemError` where it was not built, or is of another
    system or version."""
    file = _file()
    if file is None:
        raise ProblemError(Problem(MISSING, "kernel not built", "", BUILD))
    try:
        loaded = ctypes.CDLL(str(file))
    except OSError as error:  # of another system, or of a newer one
        what = f"the kernel cannot be loaded ({str(error).removeprefix(f'{file}: ')})"
        raise ProblemError(Problem(MISSING, what, str(file), BUILD)) from error
    if missing := [name for name in _SIGNATURES if not hasattr(loaded, name)]:
        raise ProblemError(Problem(MISSING, f"the kernel is of another version: no {missing[0]}", str(file), BUILD))
    if loaded.penstock_abi() != _ABI:
        raise ProblemError(Problem(MISSING, "the kernel is of another version", str(file), BUILD))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


@cache
def names() -> tuple[str, ...]:
    """Every kernel's name, the fastest first, whether this machine can run it or not."""
    return tuple(_names())


def supported() -> list[str]:
    """The kernels that this machine can run, the fastest first; `portable` is always the last."""
    return [name for name in names() if _passes(name)]


def kernel(name: str | None = None) -> Kernel:
    """The kernel of this name; without one that of `PENSTOCK_KERNEL`, or else the fastest that passes its self-test.

    Raises `ProblemError` for a name that is unknown or that this machine cannot run.
    """
    asked, where = (name, "") if name else (os.environ.get(VARIABLE), VARIABLE)
    if not asked:
        return next(Kernel(each, _address(each)) for each in names() if _passes(each))
    _require_known(asked, where)
    if not _passes(asked):
        fix = f"this machine can run: {', '.join(supported())}"
        raise ProblemError(Problem("bad-kernel", f"this machine cannot run the kernel '{asked}'", where, fix))
    return Kernel(asked, _address(asked))


def _require_known(name: str, where: str) -> None:
    if name not in KERNELS:
        raise ProblemError(Problem("bad-kernel", f"unknown kernel '{name}'", where, did_you_mean(name, KERNELS)))


def _file() -> Path | None:
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    places = (Path(folder) / f"libpenstock_quant158{suffix}" for folder in penstock.quant158.__path__)
    return next((place for place in places if place.is_file()), None)


def _names() -> Iterator[str]:
    number = 0
    while (name := library().penstock_kernel_name(number)) is not None:
        yield name.decode()
        number += 1


def _address(name: str) -> int:
    """0 where the processor lacks the instructions, or the library was built for another."""
    return library().penstock_kernel(name.encode()) or 0


@cache
def _passes(name: str) -> bool:
    address = _address(name)
    return bool(address) and bool(library().penstock_self_test(address))
