"""What a program may use, and what became of it. The sandbox's own processes read this module too: it imports nothing
of other packages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["full", "reduced", "none"]

Outcome = Literal["passed", "failed", "timed out", "ended early", "killed", "too much output", "not a program"]
"""`passed`: ran to its last line. `failed`: raised. `ended early`: left before its last line, by `os._exit` say.
`killed`: by a signal, or by the kernel where memory ran out. `not a program`: not text that Python can read, or more
than 16 MB of it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`seconds` are those of the clock on a machine with a free core, and of the processor on any: where more processes
    want to run than there are cores, the clock gets as many times longer. `memory` is the address space of a process in
    bytes, and where a memory cgroup can be made, also what all processes of a program use together. `files` is what it
    may write, in bytes. `processes` counts threads too. `output` is in bytes, of standard output and error together.

    A program of HumanEval uses 20 MB and some milliseconds; its own executor has 3 seconds.
    """

    seconds: float = 3.0
    memory: int = 512 << 20
    files: int = 64 << 20
    processes: int = 16
    output: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` says in one line why a program did not pass: its exception and line, its signal, its limit. Control
    characters in it are escaped. `output` is what it printed, as far as it may, and as it is: whoever shows it on a
    terminal uses `printable`. `seconds` are those of the clock, from start to end."""

    outcome: Outcome
    reason: str = ""
    output: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


def printable(text: str) -> str:
    """With what would drive a terminal, or reorder a line, escaped; line ends and tabs stay.

    >>> printable("\x1b[2Jred\n")
    '\\\\x1b[2Jred\\n'
    """
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode() for each in text
    )
