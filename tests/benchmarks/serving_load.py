"""Requests to servers of completions, over plain sockets: a client with more comfort would take more of the machine
than some of the servers do. Answers are kept as they come, and read once they have ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from serving_trace import Request

Address = tuple[str, int]
COMPLETIONS = "/v1/completions"
DONE = b"[DONE]"
LINE = 1 << 22
"""Bytes of the longest line of an answer."""
SLOW_BYTES = 4096
"""What a slow reader lets the server send ahead."""


@dataclass(slots=True)
class Answer:
    """What came back. `status` is 0 where the connection ended before any, `lines` are the events of a stream with the
    seconds of the clock at which each came, and `body` is what came otherwise."""

    status: int = 0
    lines: list[bytes] = field(default_factory=list[bytes])
    times: list[float] = field(default_factory=list[float])
    body: bytes = b""

    @property
    def first(self) -> float:
        """When the first text came; an event may come before it, and tokens of no text."""
        events = zip(self.lines, self.times, strict=True)
        return next((at for line, at in events if line == DONE or _text(json.loads(line))), self.times[-1])

    @property
    def tokens(self) -> int | None:
        """New tokens, as the server counts them; None where it does not say."""
        for line in reversed([*self.lines, self.body]):
            if b'"usage"' in line and (usage := json.loads(line).get("usage")):
                return usage["completion_tokens"]
        return None

    @property
    def error(self) -> str | None:
        """The message of an error, whether it is the answer or an event."""
        last = self.lines[-1] if self.lines and self.lines[-1] != DONE else self.body
        with contextlib.suppress(ValueError):
            told = json.loads(last)
            if isinstance(told, dict) and "error" in told:
                return str(told["error"])
        return None


def _text(event: dict[str, Any]) -> str:
    return "".join(choice.get("text") or "" for choice in event.get("choices", ()))


async def ask(
    address: Address,
    body: bytes,
    *,
    path: str = COMPLETIONS,
    key: str | None = None,
    leave_after: int | None = None,
    pause: float = 0.0,
) -> Answer:
    """Posts a body. The client goes after `leave_after` events, and waits `pause` seconds before it reads another; what
    has come is the answer, however the connection ended."""
    answer = Answer()
    with contextlib.suppress(OSError):
        reader, writer = await _connected(address, slow=pause > 0)
        try:
            writer.write(_head(address, path, len(body), key) + body)
            await writer.drain()
            await _read(reader, answer, leave_after, pause)
        finally:
            writer.close()
    return answer


async def _connected(address: Address, *, slow: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    if slow:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES)
    try:
        await asyncio.get_running_loop().sock_connect(connection, address)
    except OSError:
        connection.close()
        raise
    return await asyncio.open_connection(sock=connection, limit=SLOW_BYTES if slow else LINE)


def _head(address: Address, path: str, length: int, key: str | None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", "Connection: close"]
    lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    lines += [] if key is None else [f"Authorization: Bearer {key}"]
    return "\r\n".join([*lines, "", ""]).encode()


async def _read(reader: asyncio.StreamReader, answer: Answer, leave_after: int | None, pause: float) -> None:
    if not (status := await reader.readline()):
        return
    answer.status = int(status.split()[1])
    while (await reader.readline()).strip():
        pass  # of the headers nothing is needed: a server sends each event as a chunk, whose lines are whole
    async for line in reader:
        if not line.startswith(b"data: "):
            answer.body += line
            continue
        answer.lines.append(line[6:].rstrip())
        answer.times.append(time.perf_counter())
        if leave_after is not None and len(answer.lines) >= leave_after:
            return
        if pause:
            await asyncio.sleep(pause)


Send = Callable[[Request], Awaitable[Answer]]


async def replayed(send: Send, requests: Iterator[Request], streams: int, begun: float) -> list[tuple[Request, Answer]]:
    """Sends requests in their order, none before it arrives, at most `streams` at once: one that finds no stream free
    waits, and its wait counts, because an answer is timed from the arrival."""
    told: list[tuple[Request, Answer]] = []

    async def stream() -> None:
        for request in requests:  # which all streams share
            await asyncio.sleep(max(0.0, begun + request.at - time.perf_counter()))
            told.append((request, await send(request)))

    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(stream())
    return told


@dataclass(frozen=True, slots=True)
class Figures:
    """Tokens a second, seconds from each arrival to its first token, and mean seconds of each later token."""

    rate: float
    first: list[float]
    later: list[float]


def figures(told: list[tuple[Request, Answer]], begun: float, seconds: float | None = None) -> Figures:
    """Of answers to requests. The rate is of the first `seconds`, or up to the last token. Raises ValueError where a
    server did not make as many tokens as it was asked for."""
    tokens, last = 0.0, 0.0
    first, later = list[float](), list[float]()
    for request, answer in told:
        if answer.tokens != request.tokens:
            what = f"status {answer.status}, {answer.tokens} tokens, {answer.error or answer.body[:200]!r}"
            raise ValueError(f"asked for {request.tokens} tokens, and got {what}")
        times = [at - begun for at in answer.times]
        counted = times if seconds is None else [at for at in times if at <= seconds]
        tokens += request.tokens * len(counted) / len(times)
        last = max(last, times[-1])
        first.append(answer.first - begun - request.at)
        if request.tokens > 1:
            later.append((answer.times[-1] - answer.first) / (request.tokens - 1))
    return Figures(tokens / (last if seconds is None else seconds), first, later)
