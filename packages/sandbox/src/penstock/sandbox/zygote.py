"""A warm process that forks a fresh one for each program: what takes long, starting an interpreter and entering
namespaces, is done once.

    main process  --exec-->  launcher  --fork-->  zygote  --fork-->  init  --fork-->  program
                             new root,            waits,             first process    locked, runs
                             nobody               watches            of a namespace   what a model wrote

Levels `reduced` and `none` have neither launcher nor init: the process that is started is the zygote, and programs are
its children. A zygote runs one program at a time.

The zygote holds nothing of a program, since the next one is forked from its memory: source, output and report go by
files between the main process and the program's. A zygote is given their descriptors on its standard input, a socket,
with `RUN`, and answers with the status of the program's process. `STOP`, and the end of input, end the program. Its
first answer, a line of JSON, says whether the level was reached.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import site
import socket
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from penstock.sandbox import kernel, landlock, namespaces, program, seccomp
from penstock.sandbox.protocol import CONTROL, RUN, STATUS, STOP
from penstock.sandbox.verdict import Level, Limits

WARM = """
bisect collections copy dataclasses datetime decimal fractions functools hashlib heapq itertools math operator random re
statistics string typing
"""
"""Modules that programs often import, which the zygote has imported before."""
_FIRST_USER, _USERS = 61184, 4096
"""Users of programs that root runs: those that systemd takes for services with a user of their own."""
_GLANCE = 0.5
"""Seconds between looks at whether the main process is still there."""


class Unreached(Exception):
    """A level that this machine does not give: the step that failed, and the error of the system."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(f"{step}: {error}")
        self.step, self.error = step, error


def main(request: str) -> NoReturn:
    """`request`: level, limits and control groups, as JSON."""
    asked = json.loads(request)
    for file in (program.REPORT, program.SOURCE):
        os.dup2(os.open(os.devnull, os.O_RDWR), file)  # so that no other file takes this number
    try:
        zygote = Zygote.start(asked["level"], Limits(**asked["limits"]), asked["groups"])
    except Unreached as error:
        _answer({"step": error.step, "errno": error.error.errno, "error": error.error.strerror})
        os._exit(1)
    except OSError as error:
        _answer({"step": "start", "errno": error.errno, "error": error.strerror})
        os._exit(1)
    _answer({"level": asked["level"]})
    control = socket.socket(fileno=CONTROL)
    while True:
        asked_for, files, _, _ = socket.recv_fds(control, 1, 3)
        if asked_for == RUN:
            control.sendall(STATUS.pack(zygote.run(files)))
        elif asked_for != STOP:  # a STOP may cross with the end of its program
            os._exit(0)


class Zygote:
    """`start` returns in the process that forks programs."""

    def __init__(self, cell: program.Cell) -> None:
        self._cell = cell
        self._tasks = namespaces.Tasks() if cell.level == "full" else None
        self._ended, ended = os.pipe()
        self._statuses = os.pipe()
        for file in (self._ended, ended, self._statuses[0]):
            os.set_blocking(file, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a signal that is ignored wakes nobody
        signal.set_wakeup_fd(ended)

    @classmethod
    def start(cls, level: Level, limits: Limits, groups: list[str]) -> Zygote:
        """Raises `Unreached`."""
        sys.executable = os.path.realpath(sys.executable)  # a virtual environment's does not exist in a new root
        for name in WARM.split():
            __import__(name)
        site.setquit()
        site.sethelper()
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

    def run(self, files: Sequence[int]) -> int:
        """Runs one program until it ends or has to be ended. `files`: its source, output and report, which are closed.
        Returns the status of its process."""
        with self._tasks.folder(self._cell.limits.files) if self._tasks else contextlib.nullcontext():
            child = self._fork()
            if child == 0:
                program.run(self._cell, *files)
            for file in files:
                os.close(file)
            status = self._until_ended(child)
            try:
                return STATUS.unpack(os.read(self._statuses[0], STATUS.size))[0]
            except BlockingIOError:  # no first process of a namespace, or it was ended
                return status

    def _until_ended(self, child: int) -> int:
        """Leaves none of its processes."""
        poll = select.poll()
        for file in (CONTROL, self._ended):
            poll.register(file, select.POLLIN)
        told, parent = RUN, os.getppid()
        while True:
            for file, _ in poll.poll(_GLANCE * 1000):
                if file == CONTROL:
                    told = os.read(file, 1)
                    os.kill(child, signal.SIGKILL)
                    poll.unregister(file)
                else:
                    os.read(file, 1 << 10)
            if os.getppid() != parent:
                told = b""
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
        if self._tasks is None:  # else they end with the first process of their namespace
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
        if not told:  # the main process has ended
            os._exit(0)
        return status

    def _fork(self) -> int:
        """0 in the program's own process."""
        child = os.fork() if self._tasks is None else self._tasks.fork()
        if child != 0:
            return child
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self._tasks is not None and (only := os.fork()) != 0:
            self._wait_as_init(only)
        return 0

    def _wait_as_init(self, child: int) -> NoReturn:
        """The first process of a namespace: waits for all, ends with the program, and says what status it had. An exit
        code could not tell a signal from a program's own code."""
        while True:
            ended, status = os.waitpid(-1, 0)
            if ended == child:
                os.write(self._statuses[1], STATUS.pack(status))
                os._exit(0)


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
        parent, zygote = os.getppid(), os.fork()
    if zygote != 0:
        os.close(CONTROL)
        _wait_as_launcher(zygote, parent)
    kernel.die_with_parent()


def _wait_as_launcher(zygote: int, parent: int) -> NoReturn:
    """With the launcher, the zygote ends. The end of the main process is not enough for that where a process that was
    forked from it holds its end of the socket."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while os.getppid() == parent and os.waitpid(zygote, os.WNOHANG) == (0, 0):
        signal.sigtimedwait({signal.SIGCHLD}, _GLANCE)
    os._exit(0)


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


def _answer(answer: dict[str, Any]) -> None:
    os.write(CONTROL, json.dumps(answer).encode() + b"\n")
