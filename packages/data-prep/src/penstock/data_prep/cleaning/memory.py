"""Memory that cleaning may take. `max_ram` is the peak of all its processes together, interpreters included."""

from __future__ import annotations

from penstock.hooks.problems import Problem, ProblemError

PROCESS = 200_000_000
"""What a process takes before it works: 173 MB with the library `datasets`, 45 MB without it."""
LEAST = 32_000_000
"""What work takes however small its parts are: signatures of some thousand documents, buffers of files."""
SHARD = 12
"""Bytes that a worker takes for each byte of text in its shard. ASCII takes up to 2.5, texts with emoji, which Python
holds in 4 bytes a character, 6.5 (`substrings`, the dearest)."""
MAX_RAM = 512_000_000


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
