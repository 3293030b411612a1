"""Runs one command and ends with it: `python -m penstock.serve.servers.guard SECONDS COMMAND...`.

A server such as vLLM is several processes, of which some outlive the first when it is killed. The guard adopts them
(PR_SET_CHILD_SUBREAPER of Linux), passes signals on, and does not end before all are gone. Its stdin is a pipe that
nobody writes to: when the other end closes, whoever started the guard has ended, even by `kill -9`. Then the command
has SECONDS to end by itself.

It imports the standard library alone, so that it is small and starts at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TICK = 0.1
"""Seconds between two looks at the command."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class Guard:
    """One command in a session of its own."""

    def __init__(self, command: list[str], grace: float) -> None:
        self.grace = grace
        self.deadline: float | None = None
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        for each in PASSED_ON:
            signal.signal(each, self._pass_on)
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_the_guard
        )

    def run(self) -> int:
        """Waits for the command, and ends what it leaves. Returns its exit code, 128 + n for signal n."""
        attended = True
        while (code := self._reaped()) is None:
            if attended and select.select([sys.stdin], [], [], TICK)[0] and not os.read(sys.stdin.fileno(), 1):
                attended = False
                self._pass_on(signal.SIGTERM, None)
            elif not attended:
                time.sleep(TICK)
            if self.deadline is not None and time.monotonic() > self.deadline:
                self._kill_group()
        self._end_the_rest()
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """To the first process alone, which ends its others in the order that suits it."""
        if self.deadline is None:
            self.deadline = time.monotonic() + self.grace
        with contextlib.suppress(ProcessLookupError, AttributeError):  # it has ended, or is not started yet
            os.kill(self.process.pid, number)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _reaped(self) -> int | None:
        """The exit code of the command once it has ended; buries what was adopted meanwhile."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return None
                if pid == self.process.pid:
                    self.process.returncode = os.waitstatus_to_exitcode(status)
                    return self.process.returncode
        return self.process.returncode

    def _end_the_rest(self) -> None:
        """Kills processes that the command left. When one ends, its own children become the guard's."""
        self._kill_group()
        while children := _children():
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)


def _children() -> list[int]:
    """Processes whose parent is this one; empty where the system does not say."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _end_with_the_guard() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    """Asks Linux; elsewhere nothing is adopted, and the command's own group is all that is ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(grace: float, command: list[str]) -> int:
    try:
        return Guard(command, grace).run()
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started ({error.strerror})\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
