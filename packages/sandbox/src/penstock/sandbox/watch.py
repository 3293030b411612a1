"""What comes from a program until it ends, or has to be ended, and what is made of it."""

from __future__ import annotations

import os
import select
import signal
import time

SIGNALLED = 128
"""What the first process of a namespace adds to the number of the signal that ended the program."""
_READ_AT_ONCE = 1 << 16


class Watch:
    """What comes from a program until it ends, or has to be ended."""

    def __init__(self, ended: int, output: int, report: int, most: int) -> None:
        self._ended, self._output, self._report, self._most = ended, output, report, most
        self.printed, self.said = bytearray(), bytearray()
        self.stopped = ""
        for file in (output, report):
            os.set_blocking(file, False)

    def until_ended(self, child: int, deadline: float) -> int | None:
        """Its status; None if it has to be ended, which `stopped` says why."""
        poll = select.poll()
        for file in (self._ended, self._output, self._report):
            poll.register(file, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                self.stopped = "timed out"
                return None
            for file, event in poll.poll(left * 1000):
                if file == self._ended:
                    take(file)
                elif not self._more(file) and event & select.POLLHUP:
                    poll.unregister(file)
            if len(self.printed) > self._most:
                self.stopped = "too much output"
                return None
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status

    def drain(self) -> None:
        """What is still in the pipes."""
        for file in (self._output, self._report):
            while self._more(file):
                pass
        del self.printed[self._most :]

    def _more(self, file: int) -> bool:
        """Whether there was any. What is more than may be kept is thrown away."""
        taken = take(file)
        kept, most = (self.printed, self._most + 1) if file == self._output else (self.said, _READ_AT_ONCE)
        kept += taken[: max(0, most - len(kept))]
        return bool(taken)

    def outcome(self, token: bytes, status: int, seconds: float) -> tuple[str, str]:
        """The outcome and its reason."""
        code = os.waitstatus_to_exitcode(status)
        killer = -code if code < 0 else code - SIGNALLED
        killer = killer if killer in signal.valid_signals() else 0
        if self.stopped == "timed out" or killer == signal.SIGXCPU:
            return "timed out", f"ran for more than {seconds:.3g} seconds"
        if self.stopped:
            return self.stopped, f"printed more than {self._most} bytes"
        if self.said.startswith(token):
            outcome, _, reason = bytes(self.said[len(token) :]).decode("utf-8", "replace").partition("\n")
            return outcome, reason
        if killer:
            why = ", as where memory or processor seconds run out" if killer == signal.SIGKILL else ""
            return "killed", f"by signal {killer} ({signal.strsignal(killer)}){why}"
        return "ended early", f"left before its last line, with exit code {code}"


def take(file: int) -> bytes:
    """What is there, without waiting."""
    try:
        return os.read(file, _READ_AT_ONCE)
    except BlockingIOError:
        return b""
