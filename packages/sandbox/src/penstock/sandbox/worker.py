"""A zygote as the main process sees it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from penstock.hooks.problems import ProblemError
from penstock.sandbox.cgroups import make_groups, remove_groups
from penstock.sandbox.levels import unreached
from penstock.sandbox.protocol import RUN, TOKEN
from penstock.sandbox.verdict import Level, Limits, Verdict
from penstock.sandbox.watch import Lost, Watch

_SOURCES = Path(__file__).parents[2]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from penstock.sandbox.zygote import main; del sys.path[0]; "
    "main(sys.argv[2])"
)
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
_SAME_HASHES = {"PYTHONHASHSEED": "0"}
"""So that a program has the same verdict each time, as far as that is the order of its sets."""
_TO_START = 60.0
"""Seconds that a zygote has, and the first program."""
_MOST_LOAD = 16.0


class Worker:
    """One zygote, which is started again if it is lost."""

    def __init__(self, level: Level, limits: Limits) -> None:
        """Raises `ProblemError` if this machine does not give the level."""
        self.level: Level = level
        self.limits = limits
        self._closed, self._busy, self._owner = False, False, os.getpid()
        self._groups = [] if level == "none" else make_groups(limits)
        try:
            self._start()
        except BaseException:
            remove_groups(self._groups)
            raise

    def run(self, program: bytes) -> Verdict:
        """If the zygote is lost, the program has a verdict all the same, and the next program a new zygote. Raises
        `ProblemError` if there is no file descriptor left for the program, or no zygote can be started."""
        if self._busy:  # the last run was interrupted, by Ctrl-C say, and its answer would be taken for this one's
            self._restart()
        self._busy = True
        try:
            verdict = self._run(program, self.limits, load())
        except Lost:
            if self._closed:
                raise ValueError("the sandbox was closed while the program ran") from None
            self._restart()
            verdict = Verdict("killed", "the sandbox's own process ended with it, and was started again")
        self._busy = False
        return verdict

    def _restart(self) -> None:
        self._end()
        self._start()

    def close(self) -> None:
        """Ends the zygote and all of its processes. A process that was forked from the main one leaves them alone."""
        self._closed = True
        if os.getpid() != self._owner:
            self._control.close()
            return
        self._end()
        remove_groups(self._groups)

    def _run(self, program: bytes, limits: Limits, scaled: float) -> Verdict:
        token, begun = secrets.token_bytes(TOKEN), time.monotonic()
        with contextlib.ExitStack() as opened:
            try:
                source = opened.enter_context(_file_with(token + program))
                (output, output_end), (report, report_end) = (
                    opened.enter_context(_pipe()),
                    opened.enter_context(_pipe()),
                )
            except OSError as error:
                raise self._refused("start", error) from error
            try:
                socket.send_fds(self._control, [RUN], [source, output_end, report_end])
                watch = Watch(self._control, output, report, limits, scaled)
                status = watch.until_ended()
            except OSError as error:  # the zygote has closed its end
                raise Lost from error
            return watch.verdict(token, status, time.monotonic() - begun)

    def _start(self) -> None:
        request = {"level": self.level, "limits": asdict(self.limits), "groups": list(map(str, self._groups))}
        command = [sys.executable, "-s", "-P", "-S", "-c", _START, str(_SOURCES), json.dumps(request)]
        try:
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=_ENVIRONMENT | _SAME_HASHES,
                    start_new_session=True,  # Ctrl-C is for the main process, which ends its zygotes
                )
        except OSError as error:
            raise self._refused("start", error) from error
        try:
            self._require_level()
        except BaseException:
            self._end()
            raise

    def _require_level(self) -> None:
        """The zygote says that it has the level, and an empty program passes: no other probe could disagree with the
        thing itself."""
        try:
            said = self._first_answer()
            if "step" in said:
                raise ProblemError(unreached(self.level, said))
            tried = self._run(b"", replace(self.limits, seconds=_TO_START), 1.0)
        except Lost:
            raise self._refused("start", OSError(0, "no answer")) from None
        if not tried.passed:
            step = "lock" if tried.outcome == "killed" else "empty"
            raise self._refused(step, OSError(0, f"{tried.outcome}: {tried.reason}"))

    def _first_answer(self) -> dict[str, Any]:
        said = bytearray()
        self._control.settimeout(_TO_START)
        try:
            while not said.endswith(b"\n"):
                more = self._control.recv(1 << 12)
                if not more:
                    raise Lost
                said += more
        except OSError as error:
            raise Lost from error
        self._control.settimeout(None)
        return json.loads(said)

    def _refused(self, step: str, error: OSError) -> ProblemError:
        return ProblemError(unreached(self.level, {"step": step, "errno": error.errno, "error": error.strerror}))

    def _end(self) -> None:
        """Without input a zygote ends by itself."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # although other processes may hold this end, such as forked ones
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()  # the kernel ends what the process has started, except at level none
            self._process.wait()


@contextlib.contextmanager
def _file_with(content: bytes) -> Iterator[int]:
    """A file without a name, to be read from its beginning."""
    with open(os.memfd_create("program"), "r+b") if sys.platform == "linux" else tempfile.TemporaryFile() as opened:
        opened.write(content)
        opened.seek(0)
        yield opened.fileno()


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def load() -> float:
    """How many processes want to run on each core: 1 where there are cores for all, 16 at most."""
    try:
        cores = len(os.sched_getaffinity(0))
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    except (AttributeError, OSError):  # macOS
        cores, running = os.cpu_count() or 1, 1
    return min(_MOST_LOAD, max(1.0, os.getloadavg()[0] / cores, running / cores))
