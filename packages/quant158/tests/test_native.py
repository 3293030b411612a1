"""The compiled library is found or its absence explained, and a kernel that does not work is not chosen."""

from __future__ import annotations

import _ctypes
import ctypes
import mmap
import platform
import re
import shutil
import sys
from pathlib import Path

import pytest

import penstock.quant158
from penstock.hooks.problems import ProblemError
from penstock.quant158 import native

MEMBER = Path(__file__).parents[1]
needs_library = pytest.mark.skipif(not native.built(), reason="built without a compiler")
ILLEGAL = {"x86_64": b"\x0f\x0b", "aarch64": b"\x00\x00\x00\x00"}
RETURN = {"x86_64": b"\xc3", "aarch64": b"\xc0\x03\x5f\xd6"}


def kernel_of(instruction: bytes) -> tuple[ctypes.Array, mmap.mmap]:
    """A kernel whose every function is this instruction, and the memory that holds it."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(instruction)
    code = ctypes.addressof(ctypes.c_char.from_buffer(page))
    functions = (ctypes.c_void_p * 64)(*[code] * 64)  # the name, which nothing reads, and the functions
    return functions, page


def system_includes(source: Path) -> set[str]:
    """At any depth."""
    text = source.read_text(encoding="utf-8")
    ours = re.findall(r'^#include "(.+)"', text, re.M)
    return set(re.findall(r"^#include <(.+)>", text, re.M)).union(
        *(system_includes(source.parent / each) for each in ours)
    )


def test_no_library_lies_in_the_source_tree() -> None:
    assert [file for file in MEMBER.rglob("*") if file.suffix in {".so", ".dylib", ".o", ".a"}] == []


@pytest.mark.parametrize("name", ["portable", "avx2", "avx512vnni", "neon"])
def test_what_an_instruction_set_compiles_includes_nothing_of_the_cpp_library(name: str) -> None:
    assert system_includes(MEMBER / "native" / f"{name}.cpp") <= {"cstdint", "immintrin.h", "arm_neon.h"}


def test_without_a_library_the_problem_names_the_command_that_builds_it(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(penstock.quant158, "__path__", [str(tmp_path)])
    assert not native.built()
    with pytest.raises(ProblemError) as raised:
        native.library.__wrapped__()
    assert str(raised.value) == (
        "kernel not built, run `uv sync --reinstall-package penstock-quant158` with a C++17 compiler"
    )


def no_library(folder: Path) -> Path:
    file = folder / f"libpenstock_quant158{'.dylib' if sys.platform == 'darwin' else '.so'}"
    file.write_bytes(b"of another system")
    return file


def other_library(folder: Path) -> Path:
    """A library that loads, without our functions."""
    file = no_library(folder)
    shutil.copy(_ctypes.__file__, file)
    return file


@pytest.mark.parametrize(("made", "said"), [(no_library, "cannot be loaded"), (other_library, "is of another version")])
def test_a_library_of_another_system_or_version_is_named_with_the_command_that_builds_it(
    monkeypatch, tmp_path, made, said
) -> None:
    file = made(tmp_path)
    monkeypatch.setattr(penstock.quant158, "__path__", [str(tmp_path)])
    with pytest.raises(ProblemError, match=f"^{re.escape(str(file))}: the kernel {said}.*, run `uv sync") as raised:
        native.library.__wrapped__()
    assert raised.value.problems[0].code == native.MISSING
    native.library.cache_clear()
    assert not native.usable()


@needs_library
def test_the_portable_kernel_always_runs_and_is_the_last_choice() -> None:
    assert native.supported()[-1] == "portable"
    assert set(native.supported()) <= set(native.names())


@needs_library
def test_the_fastest_kernel_is_chosen_and_another_can_be_forced(monkeypatch) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    assert native.kernel().name == native.supported()[0]
    monkeypatch.setenv(native.VARIABLE, "portable")
    assert native.kernel().name == "portable"
    assert native.kernel(native.supported()[0]).name == native.supported()[0]


@needs_library
def test_an_unknown_kernel_is_refused(monkeypatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "avx-2")
    with pytest.raises(ProblemError, match=r"^PENSTOCK_KERNEL: unknown kernel 'avx-2', did you mean 'avx2'\?$"):
        native.kernel()


def test_an_unknown_kernel_is_refused_where_no_library_was_built(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(penstock.quant158, "__path__", [str(tmp_path)])
    monkeypatch.setenv(native.VARIABLE, "portable")
    assert not native.usable()
    monkeypatch.setenv(native.VARIABLE, "avx-2")
    for asked in (native.built, native.usable):
        with pytest.raises(ProblemError, match=r"^PENSTOCK_KERNEL: unknown kernel 'avx-2', did you mean 'avx2'\?$"):
            asked()


@needs_library
def test_the_kernels_of_the_library_are_those_that_are_known() -> None:
    assert native.names() == native.KERNELS


@needs_library
def test_a_kernel_that_the_machine_cannot_run_is_refused() -> None:
    others = [name for name in native.names() if name not in native.supported()]
    assert others, "no machine runs both x86 and ARM instructions"
    with pytest.raises(ProblemError, match=rf"cannot run the kernel '{others[0]}', this machine can run: .*portable$"):
        native.kernel(others[0])


@needs_library
@pytest.mark.parametrize("instructions", [ILLEGAL, RETURN], ids=["illegal", "wrong"])
def test_a_kernel_that_crashes_or_computes_nothing_fails_its_self_test_and_ends_nothing_else(instructions) -> None:
    if platform.machine() not in instructions:
        pytest.skip(f"no instruction for {platform.machine()}")
    functions, _page = kernel_of(instructions[platform.machine()])
    assert native.library().penstock_self_test(ctypes.addressof(functions)) == 0
