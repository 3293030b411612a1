"""A warm process that forks a fresh one for each program: what takes long, starting an interpreter and entering
namespaces, is done once.

    main process  --exec-->  launcher  --fork-->  zygote  --fork-->  init  --fork-->  program
                             new root,            waits,             first process    locked, runs
                             nobody               watches            of a namespace   what a model wrote

Levels `reduced` and `none` have neither launcher nor init: the process that is started is the zygote, and programs are
its children. A zygote runs one program at a time. Requests come on standard input and answers leave on standard output,
each with its length before it; the first answer says whether the level was reached.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import struct
import sys
import time
from typing import Any, NoReturn

from penstock.sandbox import kernel, landlock, namespaces, program, seccomp
from penstock.sandbox.verdict import Level, Limits
from penstock.sandbox.watch import SIGNALLED, Watch

WARM = """
bisect collections copy dataclasses datetime decimal fractions functools hashlib heapq itertools math operator random re
statistics string typing
"""
"""Modules that programs often import, which the zygote has imported before."""
_FIRST_USER, _USERS = 61184, 4096
"""Users of programs that root runs: those that systemd takes for services with a user of their own."""
_LENGTH = struct.Struct("<I")


class Unreached(Exception):
    """A level that this machine does not give: the step that failed, and the error of the system."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(f"{step}: {error}")
        self.step, self.error = step, error


def main(request: str) -> NoReturn:
    """`request`: level, limits and control groups, as JSON."""
    asked = json.loads(request)
    os.dup2(os.open(os.devnull, os.O_RDWR), program.REPORT)  # so that no other file takes this number
    try:
        zygote = Zygote.start(asked["level"], Limits(**asked["limits"]), asked["groups"])
        zygote.try_out()
    except Unreached as error:
        _answer({"step": error.step, "errno": error.error.errno, "error": error.error.strerror})
        os._exit(1)
    _answer({"level": asked["level"]})
    while (read := _read()) is not None:
        _answer(zygote.verdict(read))
    os._exit(0)


class Zygote:
    """`start` returns in the process that forks programs."""

    def __init__(self, cell: program.Cell) -> None:
        self._cell = cell
        self._tasks = namespaces.Tasks() if cell.level == "full" else None
        self._ended, ended = os.pipe()
        os.set_blocking(self._ended, False)
        os.set_blocking(ended, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a signal that is ignored wakes nobody
        signal.set_wakeup_fd(ended)

    @classmethod
    def start(cls, level: Level, limits: Limits, groups: list[str]) -> Zygote:
        """Raises `Unreached`."""
        sys.executable = os.path.realpath(sys.executable)  # a virtual environment's does not exist in a new root
        for name in WARM.split():
            __import__(name)
        opened = [os.open(os.path.join(group, "cgroup.procs"), os.O_WRONLY) for group in groups]
        rules, capabilities, own_user = None, (), level == "full"
        user = _FIRST_USER + os.getpid() % _USERS  # of its own: no zygote's programs reach those of another
        if level == "full":
            _enter(user)
        elif level == "reduced" and namespaces.is_root():
            capabilities = _reading(user)
            with _step("user"):
                namespaces.become_nobody(user, *capabilities)
            own_user = True
        if level != "none":
            rules = _rules(level)
            seccomp.full_filter()  # is built once
        os.environ |= {"HOME": program.home(level), "TMPDIR": program.home(level)}
        del os.environ["PYTHONHASHSEED"]
        gc.collect()
        gc.freeze()  # so that a child does not copy what it never changes
        return cls(program.Cell(level, limits, rules, opened, capabilities, own_user))

    def try_out(self) -> None:
        """Raises `Unreached` if a program cannot be locked in."""
        tried = self.verdict({"program": "pass", "token": "trial", "seconds": 60})
        if tried["outcome"] != "passed":
            raise Unreached("lock", OSError(0, f"{tried['outcome']}: {tried['reason']}"))

    def verdict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Runs one program to its end, or ends it."""
        with self._tasks.folder(self._cell.limits.files) if self._tasks else contextlib.nullcontext():
            return self._run(request["program"].encode("latin-1"), request["token"].encode(), request["seconds"])

    def _run(self, source: bytes, token: bytes, seconds: float) -> dict[str, Any]:
        output, output_end = os.pipe()
        report, report_end = os.pipe()
        begun = time.monotonic()
        child = self._fork()
        if child == 0:
            program.run(self._cell, source, token, output_end, report_end)
        os.close(output_end)
        os.close(report_end)
        watch = Watch(self._ended, output, report, self._cell.limits.output)
        status = watch.until_ended(child, begun + seconds)
        if status is None:
            self._end(child)
            _, status = os.waitpid(child, 0)
        elif self._tasks is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)  # what it left behind
        watch.drain()
        os.close(output)
        os.close(report)
        outcome, reason = watch.outcome(token, status, seconds)
        text = bytes(watch.printed).decode("utf-8", "replace")
        return {"outcome": outcome, "reason": reason, "output": text, "seconds": time.monotonic() - begun}

    def _fork(self) -> int:
        """0 in the program's own process."""
        child = os.fork() if self._tasks is None else self._tasks.fork()
        if child != 0:
            return child
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self._tasks is not None and (only := os.fork()) != 0:
            _wait_as_init(only)
        return 0

    def _end(self, child: int) -> None:
        """The first process of a namespace takes all others with it; without namespaces, a process and its group."""
        os.kill(child, signal.SIGKILL)
        if self._tasks is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)


def _wait_as_init(child: int) -> NoReturn:
    """The first process of a namespace: waits for all, and ends with the program."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(SIGNALLED - code if code < 0 else code)


def _enter(user: int) -> None:
    """The launcher's steps. It stays behind and waits for the zygote, the first process of its namespace."""
    with _step("namespaces"):
        root = namespaces.is_root()
        own = namespaces.new_root()
    if root:
        with _step("user"):
            namespaces.become_nobody(user)
    with _step("namespaces"):
        namespaces.new_namespaces(own)
        zygote = os.fork()
    if zygote != 0:
        for file in (0, 1):
            os.close(file)
        _, status = os.waitpid(zygote, 0)
        os._exit(0 if status == 0 else 1)
    kernel.die_with_parent()


def _rules(level: Level) -> int:
    with _step("landlock"):
        if landlock.version() < (1 if level == "full" else 4):
            raise OSError(0, f"version {landlock.version()}")
        if level == "full":
            return landlock.make_rules(["/"], [namespaces.BOX, *namespaces.DEVICES])
        return landlock.make_rules(namespaces.readable_paths(), namespaces.DEVICES)


def _reading(user: int) -> tuple[int, ...]:
    """The capability that `user` needs to read the interpreter, such as one in root's home; Landlock still decides what
    else it reads."""
    paths = namespaces.readable_paths()
    os.seteuid(user)
    try:
        readable = all(os.access(path, os.R_OK, effective_ids=True) for path in paths)
    finally:
        os.seteuid(0)
    return () if readable else (kernel.CAP_DAC_READ_SEARCH,)


@contextlib.contextmanager
def _step(name: str) -> Any:
    try:
        yield
    except OSError as error:
        raise Unreached(name, error) from error


def _read() -> dict[str, Any] | None:
    """The next request; None at the end."""
    length = _exactly(_LENGTH.size)
    return None if length is None else json.loads(_exactly(_LENGTH.unpack(length)[0]) or b"null")


def _exactly(count: int) -> bytes | None:
    read = b""
    while len(read) < count:
        more = os.read(0, count - len(read))
        if not more:
            return None
        read += more
    return read


def _answer(answer: dict[str, Any]) -> None:
    text = json.dumps(answer).encode()
    left = memoryview(_LENGTH.pack(len(text)) + text)
    while left:
        left = left[os.write(1, left) :]
