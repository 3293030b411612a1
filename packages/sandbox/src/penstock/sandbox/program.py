"""The process of one program: gives up everything that the program does not need, runs it, and reports its end.

A report that the program has passed carries a token, which comes before the source in the same file. It is held on the
evaluation stack of `run` alone, where neither frames, modules, closures nor the garbage collector show it. Code in one
process cannot keep a secret from other code there: a program that searches its own memory can find the token, as it can
still give its tests what they want to see. Nothing but its own verdict is in its reach.
"""

from __future__ import annotations

import builtins
import os
import resource
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from penstock.sandbox import kernel, landlock, namespaces, seccomp
from penstock.sandbox.protocol import TOKEN
from penstock.sandbox.verdict import Level, Limits

NAME = "program.py"
REPORT, SOURCE = 3, 4
"""File descriptors in the program's process; that of the source is closed before the program runs."""
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


class _NotLocked(Exception):
    """The process could not give up what it should."""


class _NotAProgram(Exception):
    """The source is not text."""


def home(level: Level) -> str:
    """The working directory of a program."""
    return namespaces.OWN if level == "full" else "/"


def run(cell: Cell, source: int, output: int, report: int) -> NoReturn:
    """Ends the process: with code 0 after the program's last line, else with 1. The descriptors are above `SOURCE`."""
    leave, write, read, number, code = os._exit, os.write, os.read, os.getpid, 1  # the program may replace those of os
    own = number()
    try:
        try:
            _connect(cell, source, output, report)
            _lock(cell)
        except (OSError, ValueError) as error:
            raise _NotLocked(str(error)) from error
        # The token is read, then the program runs, then both calls get what they wait for.
        write(REPORT, read(SOURCE, TOKEN) + (exec(_code(), _module()) or b""))
        code = 0
    except BaseException as error:
        if number() == own:  # a child that the program forked may come here too
            write(REPORT, _failure(error))
    finally:
        _flush()
        leave(code)


def _connect(cell: Cell, source: int, output: int, report: int) -> None:
    """Standard output and error lead to `output`, standard input to nothing; all files but the rules are closed."""
    os.setsid()
    for number, file in ((1, output), (2, output), (REPORT, report), (SOURCE, source)):
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for group in cell.groups:
        os.write(group, b"0")
    kept = SOURCE if cell.rules is None else cell.rules
    os.closerange(SOURCE + 1, kept)
    os.closerange(kept + 1, _MOST_FILES)


def _lock(cell: Cell) -> None:
    os.chdir(home(cell.level))
    _limit(cell)
    if cell.level != "none":
        _isolate(cell)


def _isolate(cell: Cell) -> None:
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


def _module() -> dict[str, Any]:
    """The names of the module that the program is."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    sys.argv = [NAME]
    return module.__dict__


def _code() -> types.CodeType:
    """The program, read and compiled as a module's file, with its declared encoding."""
    source = bytearray()
    while more := os.read(SOURCE, 1 << 20):
        source += more
    os.close(SOURCE)
    try:
        return compile(bytes(source), NAME, "exec", dont_inherit=True)
    except SyntaxError:
        declares = b"coding" in b"".join(source.split(b"\n", 2)[:2])
        try:
            source.decode("latin-1" if declares else "utf-8")
        except UnicodeDecodeError as error:
            raise _NotAProgram(f"is not UTF-8 text (byte {error.start})") from None
        raise


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            continue


def _failure(error: BaseException) -> bytes:
    """Outcome and reason, a line each."""
    if isinstance(error, _NotLocked):
        return f"killed\nbefore its first line: it could not be locked in ({error})".encode()
    if isinstance(error, _NotAProgram):
        return f"not a program\n{error}".encode()
    return (b"ended early\n" if isinstance(error, SystemExit) else b"failed\n") + _reason(error)


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
