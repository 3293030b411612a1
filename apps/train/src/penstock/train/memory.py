"""What a training process asks of the allocator."""

from __future__ import annotations

import contextlib
import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h; see mallopt(3)
LARGEST_HEAP_BLOCK = 32 * 2**20  # bytes; glibc takes no more
KEPT = 2**30  # bytes that the heap may keep at its end


def keep_freed_memory() -> None:
    """Lets glibc keep what a step freed for the next one; elsewhere it does nothing.

    By itself it gives the free end of the heap back after every step, and the kernel hands it out again a page at a
    time, which a step of small products notices.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK)
        mallopt(M_TRIM_THRESHOLD, KEPT)
