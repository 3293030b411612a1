"""Runs engine and HTTP server together, until one of them ends."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from penstock.cli import output
from penstock.server.engine.client import EngineClient
from penstock.server.engine.process import EngineOptions

if TYPE_CHECKING:
    import uvicorn

    from penstock.server.http.app import Service


async def run(
    options: EngineOptions,
    service: Callable[[EngineClient], Service],
    listener: socket.socket,
    drain: int,
    ready: Callable[[], object],
) -> int:
    """Serves until SIGTERM or SIGINT, after which running requests have `drain` seconds. Returns the exit code: 1 where
    the engine died too often. `service` makes what answers; it is called while the engine loads, because the imports of
    both take seconds. `ready` is called once the model is loaded. Raises `ProblemError` for a model that cannot be
    served."""
    engine = EngineClient(options)
    try:
        loading = asyncio.create_task(engine.start())
        await asyncio.sleep(0)  # up to here the task runs at once: its process is there
        import uvicorn

        answering = service(engine)
        await loading
        ready()
        config = uvicorn.Config(
            answering.application(),
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=drain,
        )
        server = uvicorn.Server(config)
        gone = asyncio.create_task(_stop_without(engine, server))
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, _handled)  # uvicorn sends itself what ended it, once its requests have ended
        await server.serve(sockets=[listener])
        gone.cancel()
        return int(engine.gone.is_set())
    finally:
        await engine.close()


def _handled(number: int, frame: FrameType | None) -> None:
    """The signal has done what it should."""


async def _stop_without(engine: EngineClient, server: uvicorn.Server) -> None:
    await engine.gone.wait()
    output.warn(f"the engine died {engine.deaths} times without a token between: the server ends")
    server.should_exit = True
