"""The process of one program: gives up everything that the program does not need, runs it, and reports its end.

The report goes through a pipe and begins with a token that the program was not told. A program that walks through the
memory of its own process can still find it, as it can still give its tests what they want to see: an honest end cannot
be told from a forged one in one process. Nothing but its own verdict is in its reach.
"""

from __future__ import annotations

import builtins
import os
import resource
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.sandbox import kernel, landlock, namespaces, seccomp
from penstock.sandbox.verdict import Level, Limits

NAME = "program.py"
REPORT = 3
"""The file descriptor of the report, in the program's process."""
_REASON = 500
"""Most bytes of a reason."""
_MOST_FILES = 1 << 16
_OF_THE_SANDBOX = 3
"""Processes that have the program's user too: launcher, zygote, and the first one of the program's namespace."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What the processes of one zygote are locked into. `rules` are those of Landlock, `groups` files to write a
    process's number to, so that it joins its control groups. Capabilities are those that reading the interpreter
    takes. With a user of their own, no other processes count against their limit. There are no rules at level none."""

    level: Level
    limits: Limits
    rules: int | None
    groups: Sequence[int]
    capabilities: Sequence[int]
    own_user: bool


def home(level: Level) -> str:
    """The working directory of a program."""
    return namespaces.OWN if level == "full" else "/"


def run(cell: Cell, program: bytes, token: bytes, output: int, report: int) -> None:
    """Never returns: ends the process."""
    leave, write, number = os._exit, os.write, os.getpid  # the program may replace those of the module
    try:
        _connect(output, report, cell)
        try:
            _lock(cell)
        except OSError as error:
            write(REPORT, token + f"not locked\n{error}".encode())
        else:
            own, outcome = number(), _outcome(program)
            if number() == own:  # a child that the program forked may come here too
                write(REPORT, token + outcome)
    finally:
        leave(0)


def _connect(output: int, report: int, cell: Cell) -> None:
    """Standard output and error lead to `output`, standard input to nothing; all files but the rules are closed. The
    descriptors given are above that of the report."""
    os.setsid()
    for group in cell.groups:
        os.write(group, b"0")
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, output, output, report)):
        os.dup2(file, number)
    kept = REPORT if cell.rules is None else cell.rules
    os.closerange(REPORT + 1, kept)
    os.closerange(kept + 1, _MOST_FILES)


def _lock(cell: Cell) -> None:
    os.chdir(home(cell.level))
    _limit(cell)
    if cell.level == "none":
        return
    assert cell.rules is not None
    kernel.keep_only_capabilities(*cell.capabilities)
    if cell.level == "reduced":
        kernel.die_with_parent()
    kernel.no_new_privileges()
    landlock.restrict(cell.rules)
    os.close(cell.rules)
    seccomp.install(seccomp.full_filter() if cell.level == "full" else seccomp.reduced_filter(os.getpid()))


def _limit(cell: Cell) -> None:
    """Without a user of its own, no limit on processes can be set: those of the user all count."""
    limits = cell.limits
    seconds = max(1, -int(-limits.seconds // 1))
    values = {
        resource.RLIMIT_AS: limits.memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: limits.files,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    if cell.own_user:
        values[resource.RLIMIT_NPROC] = limits.processes + _OF_THE_SANDBOX
    for kind, value in values.items():
        _, most = resource.getrlimit(kind)
        lowered = value if most == resource.RLIM_INFINITY else min(value, most)
        last = lowered + (kind == resource.RLIMIT_CPU)  # SIGXCPU comes before SIGKILL
        try:
            resource.setrlimit(kind, (lowered, last if most == resource.RLIM_INFINITY else min(last, most)))
        except (ValueError, OSError):  # macOS has no limit on address space
            if cell.level != "none":
                raise


def _outcome(program: bytes) -> bytes:
    """`passed`, or the outcome and the reason, a line each."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    sys.argv = [NAME]
    try:
        code = compile(program.decode("utf-8"), NAME, "exec", dont_inherit=True)
    except UnicodeDecodeError as error:
        return b"not a program\nis not UTF-8 text (byte %d)" % error.start
    except BaseException as error:
        return b"failed\n" + _reason(error)
    try:
        exec(code, module.__dict__)
    except SystemExit as error:
        return b"ended early\n" + _reason(error)
    except BaseException as error:
        return b"failed\n" + _reason(error)
    finally:
        _flush()
    return b"passed"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            continue


def _reason(error: BaseException) -> bytes:
    """The exception, its text, and the line of the program."""
    kind = type.__getattribute__(type(error), "__name__")
    try:
        text = builtins.str(error)[:_REASON]
    except BaseException:
        text = ""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    said = " ".join(f"{kind}: {text}".split()) if text else str(kind)
    place = f" (line {line})" if line else ""
    return said.encode("utf-8", "backslashreplace")[:_REASON] + place.encode()
