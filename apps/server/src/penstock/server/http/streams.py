"""The texts of a request, gathered into one answer or merged into one stream of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from penstock.server.http.answers import DONE, Answer, Usage
from penstock.server.http.errors import ApiError
from penstock.server.http.limits import within
from penstock.server.http.texts import Text, TokenTold

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Events(StreamingResponse):
    """A stream that gives its places back however it ends, even if its client has gone before the first event."""

    def __init__(self, events: AsyncIterator[bytes], places: ExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._places:
            await super().__call__(scope, receive, send)


async def streamed(answer: Answer, texts: Sequence[Text], n: int, seconds: float | None) -> AsyncIterator[bytes]:
    """The events of all choices as they come. An error is an event too, because the status has been sent."""
    try:
        async with within(seconds):
            async for event in _merged([_events(answer, index, text) for index, text in enumerate(texts)]):
                yield event
        if answer.tells_usage:
            yield answer.usage(usage_of(texts, n))
        yield DONE
    except ApiError as error:
        yield b"data: " + json.dumps(error.body()).encode() + b"\n\n"


async def gathered(texts: Sequence[Text]) -> list[tuple[str, str, list[TokenTold]]]:
    """Of each text: what it says, the reason why it ended, and its tokens."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_whole(text)) for text in texts]
    return [task.result() for task in tasks]


def usage_of(texts: Sequence[Text], n: int) -> Usage:
    """Of `n` texts for each prompt."""
    return Usage(
        sum(text.prompt_tokens for text in texts[::n]),
        sum(text.new_tokens for text in texts),
        sum(text.cached_tokens for text in texts[::n]),
    )


async def _whole(text: Text) -> tuple[str, str, list[TokenTold]]:
    parts: list[str] = []
    told: list[TokenTold] = []
    finish = "length"
    async for piece in text.pieces:
        parts.append(piece.text)
        told += piece.told
        finish = piece.finish or finish
    return "".join(parts), finish, told


async def _events(answer: Answer, index: int, text: Text) -> AsyncIterator[bytes]:
    """The events of one choice."""
    if (first := answer.begins(index)) is not None:
        yield first
    async for piece in text.pieces:
        yield answer.piece(index, piece)


async def _merged(streams: Sequence[AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
    """The items of several streams as they come."""
    if len(streams) == 1:
        async for item in streams[0]:
            yield item
        return
    queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def forward(stream: AsyncIterator[bytes]) -> None:
        try:
            async for item in stream:
                queue.put_nowait(item)
            queue.put_nowait(None)
        except Exception as error:  # handed to the reader, which raises it
            queue.put_nowait(error)

    tasks = [asyncio.create_task(forward(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
