"""Serves a model by a server of another project: its process, until it or this one is told to end."""

from __future__ import annotations

import signal
from types import FrameType

from penstock.cli import output
from penstock.hooks.contracts.serving import Server, ServerProcess, Serving
from penstock.hooks.problems import ProblemError, failed
from penstock.serve.servers.running import RunningServer, url_of

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def described(server: Server, serving: Serving) -> ServerProcess:
    """The process of a server. Raises `ProblemError` with everything that it cannot do."""
    if problems := server.problems(serving):
        raise ProblemError(problems)
    return server.process(serving)


def serve_beside(server: Server, serving: Serving, *, drain: float) -> int:
    """Runs a server in the foreground. SIGTERM, SIGINT and SIGHUP are passed on, after which it has `drain` seconds.
    Returns 0 once it was stopped. Raises `ProblemError` for what it cannot serve, before anything starts, if it is not
    installed, and if it ends by itself."""
    process = described(server, serving)
    if missing := server.missing():
        raise ProblemError(missing)
    url = url_of(serving.host, serving.port)
    with RunningServer(process, url, grace=drain) as running:

        def stop(number: int, frame: FrameType | None) -> None:
            running.stop(number)

        for each in ENDING:
            signal.signal(each, stop)
        if running.wait_until_ready():
            output.note(f"{process.name}: {url}/v1")
        code = running.wait()
    if running.stopped is None:
        raise failed("engine-died", f"it ended with exit code {code}", process.arguments[0], "see what it wrote")
    return code
