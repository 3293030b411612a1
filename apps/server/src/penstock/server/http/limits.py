"""What a request may take: bytes, places in the queue, time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from penstock.server.http.errors import ApiError, busy

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """`body` bytes of a request; `queue` texts that wait for a slot; `seconds` from the request to the end of its
    answer, None for any."""

    body: int = 4 << 20
    queue: int = 256
    seconds: float | None = 600.0


class Places:
    """Counts the texts that are computed or wait. There are as many places as slots, and `queue` more."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self.taken = 0

    @contextmanager
    def take(self, texts: int, slots: int) -> Iterator[None]:
        """Raises `ApiError` where texts do not find a place."""
        if self.taken + texts > slots + self._queue:
            raise busy(f"{self.taken} texts are computed or wait, and the queue has room for {self._queue}")
        self.taken += texts
        try:
            yield
        finally:
            self.taken -= texts


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """Raises `ApiError` after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        message = f"the answer takes longer than {seconds:g} seconds"
        raise ApiError(504, message, "server_error", code="timeout") from error


async def json_body(request: Request, limit: int) -> Any:
    """The body of a request. Raises `ApiError` for one that is too long, and for one that is no JSON."""
    received = bytearray()
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_long(limit)
    async for part in request.stream():
        received += part
        if len(received) > limit:
            raise _too_long(limit)
    try:
        return json.loads(received)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON ({error})") from error


def _too_long(limit: int) -> ApiError:
    return ApiError(413, f"the body is longer than {limit:,} bytes", code="body_too_large")


class ClientGoneError(Exception):
    """The client has closed its connection."""


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled if the client goes. Raises `ClientGoneError`."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
