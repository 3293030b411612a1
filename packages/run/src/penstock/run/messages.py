"""Notes and warnings of work in progress: a command shows them, a library logs them.

Code below the commands calls `note` and `warn`. Both go to the standard logger `penstock`, so a notebook or a service
receives them like those of any library; a command line shows them with `shown`.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from penstock.hooks.problems import ProblemError

LOGGER = "penstock"


def note(text: str) -> None:
    """Something good to know."""
    logging.getLogger(LOGGER).info(text)


def warn(text: str) -> None:
    """Something that may make the result differ from what the user expects."""
    logging.getLogger(LOGGER).warning(text)


class _Shown(logging.Handler):
    def __init__(self, note: Callable[[str], None], warn: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._note, self._warn = note, warn

    def emit(self, record: logging.LogRecord) -> None:
        (self._warn if record.levelno >= logging.WARNING else self._note)(record.getMessage())


@contextmanager
def shown(note: Callable[[str], None], warn: Callable[[str], None]) -> Iterator[None]:
    """Passes every note and warning to these two while the context lasts. If a command calls another, the outer one
    shows the messages of both."""
    logger = logging.getLogger(LOGGER)
    if any(isinstance(handler, _Shown) for handler in logger.handlers):
        yield
        return
    handler, level = _Shown(note, warn), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Log(logging.FileHandler):
    """A copy of what is shown: where it cannot be written, for example because the disk is full, it is cut short."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Without the traceback of the class above."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Appends every note and warning with its time, and the error that ends the context, to a file; nothing if stderr
    already goes there."""
    path.parent.mkdir(exist_ok=True)
    handler = _Log(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger(LOGGER)
    if not _is_stderr(path):
        logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        if not _is_stderr(path):
            told = isinstance(error, (ProblemError, KeyboardInterrupt))
            text = (str(error) or "interrupted") if told else "".join(traceback.format_exception(error)).rstrip()
            handler.emit(logging.makeLogRecord({"levelname": "ERROR", "msg": text}))
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


def _is_stderr(path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(2), path.stat())
    except OSError:  # closed
        return False
