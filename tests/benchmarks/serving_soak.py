"""`penstock serve` under what clients do to servers, for minutes: at 80 % of the tokens a second that it can make.

Requests come at random moments: streamed and whole ones that want an answer, readers that are slower than the model,
clients that go in the middle, bodies that are no request, bodies that are too long, and requests without the key or
with a wrong one. The engine is killed (SIGKILL) again and again in the first 40 % of the time; the rest shows
whether memory grows. Afterwards the server has to have as many open files as before, no text in a slot, and room for as
many texts as at the start.

A request is lost if its client stayed, and had neither its whole answer nor an error. `--minutes 0.2` shows that the
script works; memory is judged from two minutes on.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import secrets
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import Bar, finish, json_option, runs_option
from serving_load import DONE, Address, Answer, ask, figures, replayed
from serving_programs import MODELS, OURS, SLOTS, TINY, Model, command_of, free_port, get, model_of, started
from serving_trace import Request

SHARE = 0.8
"""Of the tokens a second that the server can make."""
TOKENS = 32
KILLS_UNTIL, KILL_EVERY = 0.4, 15.0
"""Share of the time in which the engine is killed, and the seconds between two kills."""
QUEUE, BODY = 64, 20_000
JUDGED = 2.0
"""Minutes from which on memory is judged, after the first."""
GROWTH = 1.0
PATIENCE = 120.0
"""Seconds after which a request without an answer is lost."""
PAUSE = 0.02
"""Seconds between two reads of a slow reader: it takes longer than the model for an answer."""
MALFORMED = (
    b"{",
    b"\xff\xfe",
    b"[1, 2]",
    b'{"prompt": "a", "temprature": 1}',
    b'{"prompt": "a", "max_tokens": -1}',
    b'{"prompt": {"a": "b"}}',
    b'{"prompt": "a", "stop": ["", "b"]}',
    b'{"prompt": ' + b"[" * 2000,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What clients do, how many of 20 do it, and with which status they may be answered."""

    share: int
    statuses: frozenset[int]


WANTS = frozenset({200, 429, 503, 504})
KINDS = {
    "stream": Kind(7, WANTS),
    "whole": Kind(3, WANTS),
    "slow": Kind(2, WANTS),
    "goes": Kind(2, WANTS),
    "malformed": Kind(2, frozenset({400})),
    "too long": Kind(1, frozenset({413})),
    "wrong key": Kind(2, frozenset({401})),
    "no key": Kind(1, frozenset({401})),
}
MAKES = ("stream", "whole", "slow", "goes")
"""Clients that have tokens made."""


@dataclass
class Told:
    """How requests ended, by what their clients did."""

    sent: Counter[str] = field(default_factory=Counter[str])
    complete: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    lost: list[str] = field(default_factory=list[str])
    unexpected: list[str] = field(default_factory=list[str])
    admitted: int = 0

    def add(self, kind: str, answer: Answer) -> None:
        self.sent[kind] += 1
        whole = answer.tokens == TOKENS and (answer.lines[-1:] == [DONE] or not answer.lines)
        if answer.status and answer.status not in KINDS[kind].statuses:
            self.unexpected.append(f"{kind}: {answer.status}, {answer.body[:200]!r}")
        if kind in ("wrong key", "no key") and answer.status not in (0, 401):
            self.admitted += 1
        if answer.error is not None:
            self.errors[kind] += 1
        elif whole:
            self.complete[kind] += 1
        elif kind != "goes":
            self.lost.append(f"{kind}: status {answer.status}, {len(answer.lines)} events, {answer.body[:200]!r}")

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"client": kind, "sent": count, "whole answers": self.complete[kind], "errors": self.errors[kind]}
            for kind, count in self.sent.items()
        ]


class Clients:
    """Requests to one server."""

    def __init__(self, address: Address, key: str, seed: int) -> None:
        self.told = Told()
        self._address, self._key = address, key
        self._draw = random.Random(seed)
        self._running: set[asyncio.Task[None]] = set()

    async def send(self, request: Request) -> Answer:
        """A plain request, whose answer is streamed."""
        return await ask(self._address, self._body("stream", request.prompt), key=self._key)

    def _body(self, kind: str, prompt: str) -> bytes:
        asked: dict[str, Any] = {"prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True}
        if kind in ("stream", "slow", "goes"):
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(asked).encode()

    async def come(self, rate: float, seconds: float) -> None:
        """Clients that come at random moments, `rate` a second, and stay until they have their answers."""
        kinds, shares = list(KINDS), [kind.share for kind in KINDS.values()]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(self._draw.expovariate(rate))
            (kind,) = self._draw.choices(kinds, shares)
            task = asyncio.create_task(self._one(kind))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        await asyncio.gather(*self._running)

    async def _one(self, kind: str) -> None:
        prompt = f"{self._draw.random()} The wheel"
        body, key = self._body(kind, prompt), self._key
        pause, leave_after = 0.0, None
        if kind == "malformed":
            body = self._draw.choice(MALFORMED)
        elif kind == "too long":
            body = self._body(kind, "a" * 2 * BODY)
        elif kind == "wrong key":
            key = self._draw.choice([self._key[:-1], f"{self._key}0", self._key.upper(), "", "None"])
        elif kind == "slow":
            pause = PAUSE
        elif kind == "goes":
            leave_after = self._draw.randint(1, TOKENS // 2)
        try:
            async with asyncio.timeout(PATIENCE):
                given = None if kind == "no key" else key
                answer = await ask(self._address, body, key=given, leave_after=leave_after, pause=pause)
        except TimeoutError:
            answer = Answer()  # lost
        self.told.add(kind, answer)


@dataclass
class Watch:
    """The processes of the server, and what they took."""

    front: int
    address: Address
    kills: int = 0
    samples: list[tuple[float, int, float]] = field(default_factory=list[tuple[float, int, float]])
    """Seconds since the start, the engine's process, and MB of both."""

    def engine(self) -> int | None:
        """None while it is being started again."""
        try:
            children = Path(f"/proc/{self.front}/task/{self.front}/children").read_text().split()
            named = [each for each in children if b"server.engine" in Path(f"/proc/{each}/cmdline").read_bytes()]
        except OSError:
            return None
        return int(named[0]) if named else None

    def files(self) -> list[int]:
        """Open files of the server and of its engine."""
        return [len(os.listdir(f"/proc/{each}/fd")) for each in (self.front, self.engine())]

    async def sampled(self, seconds: float) -> None:
        begun = time.monotonic()
        while (at := time.monotonic() - begun) < seconds:
            if (engine := self.engine()) is not None:
                self.samples.append((at, engine, _megabytes(self.front) + _megabytes(engine)))
            await asyncio.sleep(0.5)

    async def killing(self, seconds: float) -> None:
        """Kills engines that answer, until a share of the time has passed."""
        until = time.monotonic() + KILLS_UNTIL * seconds
        every = min(KILL_EVERY, KILLS_UNTIL * seconds / 2)
        await asyncio.sleep(every)
        while time.monotonic() < until:
            ready = (await asyncio.to_thread(get, self.address, "/ready"))[0] == 200
            if ready and (engine := self.engine()) is not None:
                os.kill(engine, signal.SIGKILL)
                self.kills += 1
            await asyncio.sleep(every)

    def growth(self, after: float) -> float:
        """MB a minute that the server and its last engine grew by, from so many seconds on."""
        kept = [(at, used) for at, engine, used in self.samples if at >= after and engine == self.samples[-1][1]]
        at_N, used_N = np.array(kept).T
        return 60 * float(np.polyfit(at_N, used_N, 1)[0])


def _megabytes(process: int) -> float:
    """Resident memory; 0 for a process that has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


def metrics(address: Address) -> dict[str, float]:
    """Samples of our own names that have no label but the model."""
    lines = re.findall(r'^penstock_(\w+)(?:\{model_name="[^"]*"\})? (\S+)$', get(address, "/metrics")[1], re.MULTILINE)
    return {name: float(value) for name, value in lines}


def settled(address: Address, holds: Callable[[dict[str, float]], bool], seconds: float = 60) -> dict[str, float]:
    """Metrics once they are what they have to become; as they are after so many seconds."""
    until = time.monotonic() + seconds
    while not holds(found := metrics(address)) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def limit(clients: Clients, seconds: float) -> float:
    """Tokens a second with as many streams as slots."""
    begun = time.perf_counter()
    told = asyncio.run(replayed(clients.send, _plain(seconds, begun), SLOTS, begun))
    return figures(told, begun, seconds).rate


def _plain(seconds: float, begun: float) -> Iterator[Request]:
    for number in itertools.count():
        if (at := time.perf_counter() - begun) >= seconds:
            return
        yield Request(f"{number} The wheel", TOKENS, at)


async def soaked(clients: Clients, watch: Watch, rate: float, seconds: float) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(clients.come(rate, seconds))
        group.create_task(watch.sampled(seconds))
        group.create_task(watch.killing(seconds))


def places(address: Address, key: str, texts: int) -> int:
    """The status of a request for so many texts at once."""
    body = json.dumps({"prompt": ["a"] * texts, "max_tokens": 1, "ignore_eos": True}).encode()
    return asyncio.run(ask(address, body, key=key)).status


def bars_of(told: Told, watch: Watch, before: Sequence[int], after: Sequence[int], last: dict[str, float]) -> list[Bar]:
    held = last["num_requests_running"] + last["num_requests_waiting"] + last["kv_cache_usage_perc"]
    return [
        Bar("requests lost without an error", len(told.lost), 0, at_least=False),
        Bar("requests without the key that were let in", told.admitted, 0, at_least=False),
        Bar("answers of another status than they should have", len(told.unexpected), 0, at_least=False),
        Bar("kills of the engine", watch.kills, 1),
        Bar("kills after which it did not start again", watch.kills - last["engine_restarts_total"], 0, at_least=False),
        Bar("open files more than at the start", max(map(int.__sub__, after, before)), 0, at_least=False),
        Bar("texts and cache held afterwards", held, 0, at_least=False),
    ]


@click.command(help=__doc__)
@click.option("--minutes", default=2.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--model", "name", default="1.7M", show_default=True, type=click.Choice([*MODELS, TINY]))
@click.option("--seed", default=0, show_default=True, help="Decides the moments, and what clients do.")
@runs_option
@json_option
def main(minutes: float, name: str, seed: int, runs: Path | None, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        model = model_of(name, runs or Path(temporary))
        soak(model, Path(temporary), 60 * minutes, seed, as_json)


def soak(model: Model, folder: Path, seconds: float, seed: int, as_json: bool) -> None:
    key, port, log = secrets.token_hex(16), free_port(), folder / "server.log"
    (folder / "keys").write_text(f"{key}\n")
    command = [*command_of(OURS, model, port, 1), "--queue", str(QUEUE), "--max-body", str(BODY)]
    command += ["--api-key-file", str(folder / "keys")]
    address = ("127.0.0.1", port)
    with started(command, log, 1) as process:
        settled(address, lambda found: found.get("engine_ready") == 1.0, 300)
        clients, watch = Clients(address, key, seed), Watch(process.pid, address)
        most = limit(clients, min(10.0, seconds / 4))
        settled(address, _idle)
        before = watch.files()
        made = sum(KINDS[kind].share for kind in MAKES) / sum(kind.share for kind in KINDS.values())
        asyncio.run(soaked(clients, watch, SHARE * most / (TOKENS * made), seconds))
        last = settled(address, _idle)
        after = watch.files()
        bars = bars_of(clients.told, watch, before, after, last)
        room = (places(address, key, SLOTS + QUEUE), places(address, key, SLOTS + QUEUE + 1))
    bars.append(Bar("places for texts are back: all are given, and one more is refused", room == (200, 400), 1))
    bars.append(Bar("keys in the log", log.read_text(errors="replace").count(key), 0, at_least=False))
    if seconds >= 60 * JUDGED:
        bars.append(Bar("MB of memory a minute after the first", watch.growth(60.0), GROWTH, at_least=False))
    for line in (*clients.told.lost[:5], *clients.told.unexpected[:5]):
        click.echo(line, err=True)
    facts = {"limit_tokens_per_second": round(most), "kills": watch.kills, "open_files": [*before, *after]}
    facts["megabytes"] = [round(used) for _, _, used in watch.samples[:: max(1, len(watch.samples) // 20)]]
    finish("serving_soak", clients.told.rows(), bars, as_json, minutes=seconds / 60, seed=seed, **facts)


def _idle(found: dict[str, float]) -> bool:
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    return found.get("engine_ready") == 1.0 and not any(found.get(name, 1.0) for name in names)


if __name__ == "__main__":
    main()
