"""A disk that is full, for this process and those that it starts: files end at a size."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing a file beyond `size` bytes fails with `OSError` ("File too large"), also in processes begun meanwhile.

    Python writes no bytecode in this time: it takes a file that the limit cut short for a whole one, and the module
    could not be imported ever after.
    """
    import resource  # not on Windows

    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    with mock.patch.object(sys, "dont_write_bytecode", True), mock.patch.dict(os.environ, PYTHONDONTWRITEBYTECODE="1"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
