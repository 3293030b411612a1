"""Allocator settings of a training process."""

from __future__ import annotations

import contextlib
import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h; see mallopt(3)
LARGEST_HEAP_BLOCK = 32 * 2**20  # bytes; glibc accepts no more
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
