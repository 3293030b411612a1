"""A zygote as the main process sees it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from penstock.hooks.problems import ProblemError
from penstock.sandbox.cgroups import make_groups, remove_groups
from penstock.sandbox.levels import unreached
from penstock.sandbox.verdict import Level, Limits, Verdict

_SOURCES = Path(__file__).parents[2]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from penstock.sandbox.zygote import main; del sys.path[0]; "
    "main(sys.argv[2])"
)
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
_SAME_HASHES = {"PYTHONHASHSEED": "0"}
"""So that a program has the same verdict each time, as far as that is the order of its sets."""
_TO_START, _TO_ANSWER = 60.0, 30.0
"""Seconds that a zygote has, beyond those of the program."""
_MOST_LOAD = 16.0


class Lost(Exception):
    """The zygote has ended, or does not answer."""


class Worker:
    """One zygote, which is started again if it is lost."""

    def __init__(self, level: Level, limits: Limits) -> None:
        """Raises `ProblemError` if this machine does not give the level."""
        self.level: Level = level
        self.limits = limits
        self._groups = [] if level == "none" else make_groups(limits)
        try:
            self._process = self._start()
        except BaseException:
            remove_groups(self._groups)
            raise

    def run(self, program: bytes) -> Verdict:
        """If the zygote is lost, the program has a verdict all the same, and the next program a new zygote."""
        seconds = self.limits.seconds * load()
        request = {"program": program.decode("latin-1"), "token": secrets.token_hex(16), "seconds": seconds}
        try:
            self._write(json.dumps(request).encode())
            return Verdict(**self._read(seconds + _TO_ANSWER))
        except Lost:
            self._end()
            self._process = self._start()
            return Verdict("killed", "the sandbox's own process ended with it, and was started again")

    def close(self) -> None:
        """Ends the zygote and all of its processes."""
        self._end()
        remove_groups(self._groups)

    def _start(self) -> subprocess.Popen[bytes]:
        request = {"level": self.level, "limits": asdict(self.limits), "groups": list(map(str, self._groups))}
        command = [sys.executable, "-s", "-P", "-S", "-c", _START, str(_SOURCES), json.dumps(request)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=_ENVIRONMENT | _SAME_HASHES,
            start_new_session=True,  # Ctrl-C is for the main process, which ends its zygotes
        )
        try:
            said = self._read(_TO_START)
        except Lost:
            said = {"step": "start", "errno": 0, "error": "no answer"}
        if "step" in said:
            self._end()
            raise ProblemError(unreached(self.level, said))
        return self._process

    def _end(self) -> None:
        """Without input a zygote ends by itself."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()  # the kernel ends what the process has started, except at level none
            process.wait()

    def _write(self, text: bytes) -> None:
        assert self._process.stdin is not None
        left = memoryview(len(text).to_bytes(4, "little") + text)
        try:
            while left:
                left = left[os.write(self._process.stdin.fileno(), left) :]
        except OSError as error:
            raise Lost from error

    def _read(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        length = int.from_bytes(self._exactly(4, deadline), "little")
        return json.loads(self._exactly(length, deadline))

    def _exactly(self, count: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        file, read = self._process.stdout.fileno(), b""
        while len(read) < count:
            if not select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Lost
            more = os.read(file, count - len(read))
            if not more:
                raise Lost
            read += more
        return read


def load() -> float:
    """How many processes want to run on each core: 1 where there are cores for all, 16 at most."""
    try:
        cores = len(os.sched_getaffinity(0))
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    except (AttributeError, OSError):  # macOS
        cores, running = os.cpu_count() or 1, 1
    return min(_MOST_LOAD, max(1.0, os.getloadavg()[0] / cores, running / cores))
