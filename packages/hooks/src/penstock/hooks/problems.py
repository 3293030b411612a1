"""Every error a user can cause is a `Problem`: what happened, where, and what to do.

Problems are collected and raised together as `ProblemError`, so one run of `penstock config validate` shows all of
them. A bug is not a problem: it keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What a `penstock` process returns."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PLUGIN = 3
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, in words a user can act on.

    >>> print(Problem("unknown-field", "unknown field 'kk'", "run.yaml:7:3: model.router", "did you mean 'k'?"))
    run.yaml:7:3: model.router: unknown field 'kk', did you mean 'k'?
    """

    code: str
    what: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f", {self.fix}" if self.fix else ""
        return f"{place}{self.what}{remedy}"

    def as_dict(self) -> dict[str, str]:
        """The problem as JSON shows it."""
        return {"code": self.code, "where": self.where, "what": self.what, "fix": self.fix}


class ProblemError(Exception):
    """Carries one or more problems and the exit code that the process should end with."""

    def __init__(self, problems: Problem | Sequence[Problem], exit_code: ExitCode = ExitCode.USAGE) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.exit_code = exit_code
        super().__init__("\n".join(str(problem) for problem in self.problems))


def failed(code: str, what: str, where: str = "", fix: str = "") -> ProblemError:
    """A problem of work in progress (exit code 1), as opposed to one of usage or config."""
    return ProblemError(Problem(code, what, where, fix), ExitCode.FAILED)


DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
"""A full disk, a used-up quota, a read-only file system, a place that may not be written to, and a broken device."""


def disk_problem(error: OSError, where: str = "") -> Problem | None:
    """What is wrong with the disk; None for any other error of the system. The error's own file goes before `where`.

    >>> disk_problem(OSError(errno.ENOSPC, "No space left on device", "runs/a.json")).where
    'runs/a.json'
    """
    if error.errno not in DISK_ERRORS:
        return None
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = f"{'free space or choose' if full else 'choose'} another folder, and give the same command again"
    return Problem("disk", f"cannot be written ({error.strerror or error})", str(error.filename or where), fix)


NAMES_SHOWN = 100
"""Most names in a hint. transformers knows some 500 types of models, lm-evaluation-harness 14,000 tasks."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A hint such as "did you mean 'k'?", or the known names if none is close; empty if no names are known, or more
    than anyone reads.

    >>> did_you_mean("sigmod-topk", ["sigmoid-topk", "softmax-topk"])
    "did you mean 'sigmoid-topk'?"
    >>> did_you_mean("zzz", ["b", "a"])
    'known: a, b'
    """
    import difflib  # imported here because only errors need it, and it would slow down every command

    names = sorted(set(known))
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6) or [
        name
        for name in names
        if wrong and (name.startswith(wrong) or (wrong.startswith(name) and (len(name) > 1 or len(wrong) <= 3)))
    ]
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(names)}" if 0 < len(names) <= NAMES_SHOWN else ""
