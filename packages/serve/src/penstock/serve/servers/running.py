"""A server's process, from the start until nothing of it is left."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from typing import IO

from penstock.hooks.contracts.serving import ServerProcess
from penstock.hooks.problems import failed

READY_WITHIN = 600.0
"""Seconds in which a server has to be ready: vLLM took 144 on two busy cores, and models may be 100 times as large."""
GRACE = 30.0
"""Seconds that a server has to end its requests."""
STDERR = 2
KILLED = 128 + signal.SIGKILL
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def shown(process: ServerProcess) -> str:
    """The process as a line for a shell, with `***` in place of secrets."""
    variables = [
        f"{name}={'***' if name in process.secrets else shlex.quote(value)}"
        for name, value in process.environment.items()
    ]
    return " ".join([*variables, shlex.join(process.arguments)])


def url_of(host: str, port: int) -> str:
    """Where a server is reached from this machine; one that listens everywhere listens here."""
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{near}]' if ':' in near else near}:{port}"


class RunningServer:
    """A started process. Leaving the block ends it, and every process that it started.

    What it writes goes to `log`, or to stderr: stdout is for results.
    """

    def __init__(self, process: ServerProcess, url: str, *, log: IO[bytes] | None = None, grace: float = GRACE) -> None:
        self.process, self.url, self.grace = process, url, grace
        self.stopped: int | None = None
        command = [sys.executable, "-m", "penstock.serve.servers.guard", str(grace), *process.arguments]
        output = STDERR if log is None else log
        self._guard = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **process.environment},
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def wait_until_ready(self, seconds: float = READY_WITHIN) -> bool:
        """Waits until the model can be asked; False if the server was stopped before. Raises `ProblemError` if it ends
        by itself, or is not ready in time."""
        end = time.monotonic() + seconds
        while not self._answers():
            if self._guard.poll() is not None:
                if self.stopped is not None:
                    return False
                what = f"it ended with exit code {self._guard.returncode} before it was ready"
                raise failed("engine-died", what, self.process.arguments[0], "see what it wrote")
            if time.monotonic() > end:
                what = f"it was not ready within {seconds:.0f} s"
                raise failed("engine-died", what, self.process.arguments[0], "see what it wrote")
            time.sleep(0.2)
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Passes a signal on. The server has `grace` seconds to end."""
        self.stopped = number
        self._guard.send_signal(number)

    def wait(self) -> int:
        """Waits for the end. 0 if the server was stopped and had ended within its time."""
        code = self._guard.wait()
        return 0 if self.stopped is not None and code not in (KILLED, -signal.SIGKILL) else code

    def end(self) -> None:
        """Ends everything."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()  # at which the guard ends the rest
        try:
            self._guard.wait(self.grace + 10)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()

    def _answers(self) -> bool:
        try:
            with _DIRECT.open(self.url + self.process.ready, timeout=5) as response:
                return response.status == 200
        except (OSError, http.client.HTTPException):  # nothing listens yet, or it says that it is loading
            return False
