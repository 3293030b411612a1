"""What comes from a program until it ends, and what is made of it.

The main process reads it. The zygote sees nothing of it: the next program is forked from the zygote's memory, and would
find it there.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from penstock.sandbox.protocol import STATUS, STOP
from penstock.sandbox.verdict import Limits, Outcome, Verdict, printable

_REPORTED: dict[str, Outcome] = {
    "failed": "failed",
    "ended early": "ended early",
    "killed": "killed",
    "not a program": "not a program",
}
"""The ends that a program's process may report without a token: any but `passed`."""
_READ_AT_ONCE = 1 << 16
_TO_STOP = 30.0
"""Seconds that a zygote has to end a program."""


class Lost(Exception):
    """The zygote has ended, or does not answer."""


class Watch:
    """`control` is the socket of the zygote; `output` and `report` are pipes of the program."""

    def __init__(self, control: socket.socket, output: int, report: int, limits: Limits, load: float) -> None:
        self._control, self._output, self._report = control, output, report
        self._limits, self._load = limits, load
        self._printed, self._said = bytearray(), bytearray()
        self._stopped: Outcome | None = None
        for file in (output, report):
            os.set_blocking(file, False)

    def until_ended(self) -> int:
        """The status of the program's process, which is ended if it runs for too long or prints too much. Raises
        `Lost`."""
        poll = select.poll()
        control = self._control.fileno()
        for file in (control, self._output, self._report):
            poll.register(file, select.POLLIN)
        deadline = time.monotonic() + self._limits.seconds * self._load
        while True:
            left = max(0.0, deadline - time.monotonic())
            for file, _ in poll.poll(left * 1000):
                if file == control:
                    return self._status()
                self._take(file)
            late = time.monotonic() >= deadline
            if self._stopped and late:
                raise Lost
            if not self._stopped and (late or self._too_much()):
                self._stopped = "too much output" if self._too_much() else "timed out"
                deadline = time.monotonic() + _TO_STOP
                self._control.sendall(STOP)

    def _status(self) -> int:
        said = self._control.recv(STATUS.size)
        if len(said) < STATUS.size:
            raise Lost
        return STATUS.unpack(said)[0]

    def _take(self, file: int) -> bool:
        """Whether there was any, without waiting. What is more than may be kept is thrown away."""
        try:
            taken = os.read(file, _READ_AT_ONCE)
        except BlockingIOError:
            return False
        kept, most = (self._printed, self._limits.output + 1) if file == self._output else (self._said, _READ_AT_ONCE)
        kept += taken[: max(0, most - len(kept))]
        return bool(taken) and len(kept) < most

    def _too_much(self) -> bool:
        return len(self._printed) > self._limits.output

    def verdict(self, token: bytes, status: int, seconds: float) -> Verdict:
        """Of a program that has ended, with a status as that of `os.wait`."""
        for file in (self._output, self._report):
            while self._take(file):
                pass
        outcome, reason = self._outcome(token, os.waitstatus_to_exitcode(status))
        text = bytes(self._printed[: self._limits.output]).decode("utf-8", "replace")
        return Verdict(outcome, printable(" ".join(reason.split())), text, seconds)

    def _outcome(self, token: bytes, code: int) -> tuple[Outcome, str]:
        """The outcome and its reason. Only a report with the token says that the program has passed."""
        if self._stopped == "timed out":
            return "timed out", f"ran for more than {self._allowed()}"
        if self._too_much():
            return "too much output", f"printed more than {self._limits.output} bytes"
        if code == -signal.SIGXCPU:
            return "timed out", f"ran for more than {self._limits.seconds:g} seconds of the processor"
        if code == 0 and token in self._said:
            return "passed", ""
        said = bytes(self._said).replace(token, b"").decode("utf-8", "replace")
        first, _, reason = said.partition("\n")
        if first in _REPORTED:
            return _REPORTED[first], reason
        if code < 0:
            why = ", as where memory or processor seconds run out" if code == -signal.SIGKILL else ""
            return "killed", f"by signal {-code} ({signal.strsignal(-code)}){why}"
        reported = f", and with a report of its own: {first[:100]}" if said else ""
        return "ended early", f"left before its last line, with exit code {code}{reported}"

    def _allowed(self) -> str:
        """The time on the clock, with what the load of the machine made of it."""
        seconds = f"{self._limits.seconds:g} seconds"
        if self._load == 1.0:
            return seconds
        scaled = self._limits.seconds * self._load
        return f"{scaled:.3g} seconds ({seconds}, {self._load:.3g} times as long for the load of the machine)"
