"""What a request may take: bytes, places in the queue, time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from penstock.hooks.json_text import parse_strict_json
from penstock.server.http.errors import ApiError, busy

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """`body` bytes of a request, which come within `reading` seconds; `queue` texts that wait for a slot; `seconds`
    from the request to the end of its answer, None for any."""

    body: int = 4 << 20
    queue: int = 256
    seconds: float | None = 600.0
    reading: float = 60.0


class Places:
    """Counts the texts that are computed or wait. There are as many places as slots, and `queue` more."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self.taken = 0

    def require(self, texts: int, slots: int, param: str) -> None:
        """Raises `ApiError` for more texts than there are places, so that no time would help."""
        if texts > slots + self._queue:
            what = f"{texts} texts in one request: this server computes {slots} at once, and {self._queue} may wait"
            raise ApiError(400, what, param=param, code="too_many_texts")

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


async def json_body(request: Request, limits: Limits) -> Any:
    """The body of a request. Raises `ApiError` for one that is too long or too slow, and for one that is no JSON: NaN,
    numbers beyond all floats, keys that occur twice and halves of surrogate pairs are none."""
    _require_json(request)
    try:
        async with asyncio.timeout(limits.reading):
            received = await _received(request, limits.body)
    except TimeoutError as error:
        raise ApiError(408, f"the body did not come within {limits.reading:g} seconds", code="timeout") from error
    try:
        return parse_strict_json(received)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON ({error})") from error


def _require_json(request: Request) -> None:
    """A page in a browser may send anything else to a server on its user's machine without asking it first."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if given != "application/json" or coding != "identity":
        what = "send the body as it is, with the header `Content-Type: application/json`"
        raise ApiError(415, what, code="unsupported_media_type")


async def _received(request: Request, limit: int) -> bytes:
    received = bytearray()
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_long(limit)
    async for part in request.stream():
        received += part
        if len(received) > limit:
            raise _too_long(limit)
    return bytes(received)


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
