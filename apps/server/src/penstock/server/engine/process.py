"""The engine's process: reads jobs from a socket, steps the model, and writes what it chose. It ends with the socket,
so it never outlives the server, however that ends.

Lines of JSON: `{"begin": job}` and `{"cancel": id}` come in. `{"ready": {...}}`, `{"steps": [...]}` for each step,
`{"loads": {layer: [counts]}}` now and then and `{"refused": id, "why": text}` go out.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.hooks.problems import ProblemError
from penstock.server.engine.request import Job, Step

if TYPE_CHECKING:
    from penstock.generate.model import TextModel
    from penstock.server.engine.scheduler import Scheduler

LOADS_EVERY = 1.0
"""Seconds between two reports of the load of experts."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the process is started with. `slots` texts at once, each of up to `positions` tokens."""

    model: str
    slots: int
    positions: int
    chunk: int
    threads: int | None
    selection: dict[str, Any]


class Engine:
    """Steps a model as long as there is work, and waits for more otherwise."""

    def __init__(self, scheduler: Scheduler, connection: socket.socket) -> None:
        self._scheduler, self._connection = scheduler, connection
        self._unread = b""
        self._told = time.monotonic()

    def run(self) -> None:
        """Until the other end closes."""
        while self._take():
            steps = self._scheduler.step()
            if steps:
                self._write({"steps": [written(step) for step in steps], "state": self._state()})
            if time.monotonic() - self._told >= LOADS_EVERY:
                self._tell_loads()

    def _state(self) -> list[int]:
        scheduler = self._scheduler
        return [scheduler.running, len(scheduler.waiting), scheduler.held]

    def _take(self) -> bool:
        """Takes what has come, and waits for it if there is nothing to do. Returns whether the other end is there."""
        while True:
            wait = LOADS_EVERY if self._scheduler.idle else 0.0
            if not select.select([self._connection], [], [], wait)[0]:
                if not self._scheduler.idle:
                    return True
                self._tell_loads()
                continue
            received = self._connection.recv(1 << 20)
            if not received:
                return False
            for line in self._lines(received):
                self._act(json.loads(line))

    def _lines(self, received: bytes) -> Iterator[bytes]:
        *whole, self._unread = (self._unread + received).split(b"\n")
        yield from whole

    def _act(self, message: dict[str, Any]) -> None:
        if "cancel" in message:
            self._scheduler.cancel(message["cancel"])
            return
        job = Job.of(message["begin"])
        try:
            self._scheduler.add(job)
        except ValueError as error:
            self._write({"refused": job.id, "why": str(error)})

    def _tell_loads(self) -> None:
        loads = {str(layer): load.tolist() for layer, load in self._scheduler.expert_loads().items() if load.any()}
        if loads:
            self._write({"loads": loads, "state": self._state()})
        self._told = time.monotonic()

    def _write(self, message: dict[str, Any]) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")


def written(step: Step) -> list[Any]:
    """A step as a list, which is shorter than an object; see `read_step`."""
    return [step.id, step.token, step.ended, step.logprob, step.top, step.cached]


def described(model: TextModel, scheduler_slots: int, positions: int) -> dict[str, Any]:
    """What the server needs to know of a model; it loads none."""
    return {
        "name": model.name,
        "vocabulary_size": model.vocabulary_size,
        "tokenizer": model.tokenizer.serialized.decode(),
        "adds_tokens": model.tokenizer.adds_tokens,
        "begins": list(model.begins),
        "ends": sorted(model.ends),
        "template": model.template,
        "special": model.special,
        "slots": scheduler_slots,
        "positions": positions,
    }


def main() -> None:
    options = EngineOptions(**json.loads(sys.argv[1]))
    with socket.socket(fileno=int(sys.argv[2])) as connection:
        try:
            scheduler, told = _loaded(options)
        except ProblemError as error:
            told = {"failed": [asdict(problem) for problem in error.problems]}
            connection.sendall(json.dumps(told).encode() + b"\n")
            return
        connection.sendall(json.dumps({"ready": told}).encode() + b"\n")
        try:
            Engine(scheduler, connection).run()
        except (BrokenPipeError, ConnectionResetError):
            return


def _loaded(options: EngineOptions) -> tuple[Scheduler, dict[str, Any]]:
    """The imports are here, because the server reads this module too, and starts the process before it has any."""
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    from penstock.generate.opening import open_model
    from penstock.hooks.discovery import Selection
    from penstock.hooks.registry import Registry
    from penstock.server.engine.decoders import slots_of
    from penstock.server.engine.scheduler import Scheduler

    model = open_model(Path(options.model), Registry.discover(Selection.from_json(options.selection)))
    decoder = slots_of(model, slots=options.slots, positions=options.positions)
    return Scheduler(decoder, chunk=options.chunk), described(model, decoder.slots, decoder.positions)


if __name__ == "__main__":
    main()
