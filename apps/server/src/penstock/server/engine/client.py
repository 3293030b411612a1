"""The server's side of the engine: starts its process, sends jobs, hands steps to whoever asked, and starts it again
when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from penstock.cli import output
from penstock.hooks.contracts import Draw
from penstock.hooks.problems import Problem, ProblemError, failed
from penstock.server.engine.process import EngineOptions
from penstock.server.engine.request import Ended, Job, Step

LINE = 1 << 26
"""Bytes of the longest line of the engine."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before an engine that died is started again, doubled each time."""


class EngineLostError(Exception):
    """The engine died while it had this text, or is not there."""


class RefusedError(Exception):
    """The engine does not take this job; the message says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the engine's process says of its model; see `process.described`."""

    name: str
    vocabulary_size: int
    tokenizer: str
    adds_tokens: bool
    begins: list[int]
    ends: list[int]
    template: str | None
    special: dict[str, str]
    slots: int
    positions: int


@dataclass(slots=True)
class Counts:
    """What the engine told last: texts in slots, texts that wait, and the tokens that running texts hold."""

    running: int = 0
    waiting: int = 0
    held: int = 0


class EngineClient:
    """One engine, and the process that it is in. `deaths` are those since a token was last made; with as many as
    `most_deaths` it stays away, and `gone` is set."""

    def __init__(self, options: EngineOptions, *, most_deaths: int = 5) -> None:
        self.counts = Counts()
        self.deaths = 0
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.on_loads: Callable[[dict[int, list[int]]], object] = lambda loads: None
        self.on_restart: Callable[[], object] = lambda: None
        self._options, self._most_deaths = options, most_deaths
        self._texts: dict[int, asyncio.Queue[Step | Exception]] = {}
        self._ids = itertools.count(1)
        self._served: Served | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def usage(self) -> float:
        """Share of the cache that running texts fill."""
        return 0.0 if self._served is None else self.counts.held / (self._served.slots * self._served.positions)

    @property
    def pid(self) -> int | None:
        """The number of the engine's process, while there is one."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    @property
    def served(self) -> Served:
        """The model. Raises `EngineLostError` before the engine was ready for the first time."""
        if self._served is None:
            raise EngineLostError("the model is not loaded yet")
        return self._served

    async def start(self) -> None:
        """Loads the model. Raises `ProblemError` for one that cannot be served."""
        reader = await self._started()
        self._task = asyncio.create_task(self._run(reader))

    async def close(self) -> None:
        """Ends the process."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end()

    async def steps(
        self, tokens: Sequence[int], *, most: int, draw: Draw, seed: int, ends: Sequence[int]
    ) -> AsyncGenerator[Step]:
        """The tokens of a text as they come; a text that is closed sooner leaves its slot. Raises `EngineLostError` if
        the engine dies, and `RefusedError`."""
        job = Job(next(self._ids), tokens, most, draw, seed, ends)
        if not self.ready.is_set() or self._writer is None:
            raise EngineLostError("the engine is being started")
        queue = self._texts[job.id] = asyncio.Queue()
        ended = False
        try:
            self._writer.write(job.line())
            while not ended:
                step = await queue.get()
                if isinstance(step, Exception):
                    ended = True
                    raise step
                ended = step.ended is not None
                yield step
        finally:
            del self._texts[job.id]
            if not ended and self._writer is not None:
                self._writer.write(json.dumps({"cancel": job.id}).encode() + b"\n")

    async def _started(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        with theirs:
            words = (json.dumps(asdict(self._options)), str(theirs.fileno()))
            module = ("-m", "penstock.server.engine.process")
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *module, *words, pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE)
        line = await reader.readline()
        if not line:
            code = await self._process.wait()
            what = f"its process ended with {code} while it loaded the model"
            raise failed("engine-died", what, self._options.model, "see what it wrote above")
        told = json.loads(line)
        if "failed" in told:
            await self._process.wait()
            raise ProblemError([Problem(**problem) for problem in told["failed"]])
        self._served = Served(**told["ready"])
        self.ready.set()
        return reader

    async def _run(self, reader: asyncio.StreamReader) -> None:
        """Reads what the engine says until it ends, and starts it again."""
        while True:
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    self._hear(json.loads(line))
            self.ready.clear()
            await self._end()
            self._lose("the engine died")
            reader_or_none = await self._again()
            if reader_or_none is None:
                self.gone.set()
                return
            reader = reader_or_none

    async def _again(self) -> asyncio.StreamReader | None:
        """Starts the engine again after a pause; None if it has died too often."""
        while self.deaths + 1 < self._most_deaths:
            self.deaths += 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self.deaths - 1))
            output.warn(f"the engine died: it is started again in {pause:g} s")
            await asyncio.sleep(pause)
            with contextlib.suppress(ProblemError):
                reader = await self._started()
                self.on_restart()
                return reader
        return None

    def _hear(self, message: dict[str, Any]) -> None:
        if "state" in message:
            self.counts = Counts(*message["state"])
        if "steps" in message:
            self.deaths = 0
            for each in message["steps"]:
                step = read_step(each)
                if (queue := self._texts.get(step.id)) is not None:
                    queue.put_nowait(step)
        if "loads" in message:
            self.on_loads({int(layer): load for layer, load in message["loads"].items()})
        if "refused" in message and (queue := self._texts.get(message["refused"])) is not None:
            queue.put_nowait(RefusedError(message["why"]))

    def _lose(self, why: str) -> None:
        self.counts = Counts()
        for queue in self._texts.values():
            queue.put_nowait(EngineLostError(why))

    async def _end(self) -> None:
        """Closes the socket, at which the process ends, and kills it if it does not."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None and self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), 5)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


def read_step(each: Sequence[Any]) -> Step:
    """Inverse of `process.written`."""
    id, token, ended, logprob, top, cached = each
    return Step(id, token, None if ended is None else Ended(ended), logprob, [tuple(pair) for pair in top], cached)
