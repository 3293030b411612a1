"""Memory of a training process: allocator settings, what is available, and what state takes."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from pathlib import Path
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h; see mallopt(3)
LARGEST_HEAP_BLOCK = 32 * 2**20  # bytes; glibc accepts no more
LARGE_MODEL = 2**28  # bytes of parameters; returning blocks of smaller models costs more time than it saves memory
RETURNED = 4 * 2**20  # bytes of a block that a large model returns
KEPT = 2**30  # bytes that the heap may keep at its end


def keep_freed_memory() -> None:
    """Lets glibc keep memory freed by a step for the next one; does nothing with other C libraries.

    By default glibc returns the free end of the heap after every step, and the kernel hands it out again page by page,
    which slows a step of small matrix products measurably.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def return_freed_memory(parameters: int) -> None:
    """Returns free memory to the system. If the parameters take `LARGE_MODEL` bytes or more, glibc also returns each
    large block as soon as it is freed, from now on. Does nothing with other C libraries."""
    if platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        if parameters >= LARGE_MODEL:
            library.mallopt(M_MMAP_THRESHOLD, RETURNED)
        library.malloc_trim(0)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this machine or its container can still give to processes; None where the system does not say."""
    limits: list[int] = []
    with contextlib.suppress(OSError, ValueError, LookupError):
        lines = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        limits.append(1024 * int(lines["MemAvailable"].split()[0]))
    group = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(limits, default=None)


def optimizer_state(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What an optimizer over parameters on the meta device keeps of each: it takes a step, which computes nothing
    there. One that cannot is taken to keep two tensors, as AdamW does."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer.step()
        return [dict(state) for state in optimizer.state.values()]
    except Exception:  # it reads values, which are not there, and fails with an error of its own
        return [{"first": torch.zeros_like(each), "second": torch.zeros_like(each)} for each in parameters]
