"""Memory that cleaning may take. `max_ram` is the peak of all its processes together, interpreters included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import ByteSize, ValidationError, WrapValidator

from penstock.hooks.problems import Problem, ProblemError

PROCESS = 200_000_000
"""What a process takes before it works, the libraries that stages import included."""
LEAST = 32_000_000
"""What work takes however small its parts are: signatures of some thousand documents, buffers of files."""
SHARD = 12
"""Bytes that a worker takes for each byte of text in its shard. `tests/benchmarks/cleaning_memory.py` measures both."""
MAX_RAM = 512_000_000


def _read(value: Any, parse: Callable[[Any], ByteSize]) -> ByteSize:
    try:
        return parse(value)
    except ValidationError as error:
        raise ValueError("write a number of bytes, or one with a unit, such as 512MB or 4GiB") from error


MemorySize = Annotated[ByteSize, WrapValidator(_read)]
"""A setting that holds bytes."""


def room_of(max_ram: int) -> int:
    """Bytes that one process has for its work. Raises `ProblemError` if they are too few for any."""
    if max_ram < PROCESS + LEAST:
        raise too_small("a process", LEAST)
    return max_ram - PROCESS


def workers_within(max_ram: int, shard_bytes: int) -> int:
    """How many workers, each with a shard of so many bytes of text, may work beside the process that starts them.
    Raises `ProblemError` if none may. A shard with a document that is larger than it should be takes more."""
    workers = (max_ram - PROCESS) // (PROCESS + SHARD * shard_bytes)
    if workers < 1:
        what = f"a worker with a shard of {shard_bytes / 1e6:g} MB and the process that starts it"
        raise too_small(what, SHARD * shard_bytes, processes=2)
    return workers


def too_small(what: str, room: int, processes: int = 1) -> ProblemError:
    """The problem that `what` takes more memory than it may: `room` bytes beside the processes."""
    needed = -(-(processes * PROCESS + room) // 1_000_000)
    return ProblemError(Problem("invalid-value", f"{what} needs at least {needed} MB", "max_ram", "raise it"))
