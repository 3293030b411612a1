"""Workers on this machine: processes that stay for many jobs, with one thread and one core each unless told otherwise.

A small model does not fill two cores: two processes of one thread train about twice as many tokens a second as one
process of two threads. A worker is a new interpreter, not a fork, because a fork copies the threads' locks of a process
that has used torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path

from penstock.hooks.contracts.launching import Job, Outcome
from penstock.hooks.jobs import THREADS

POLL = 0.5
"""Seconds after which a worker's death is noticed if a process that it started keeps its socket open."""


class LocalLauncher:
    """See `penstock.hooks.contracts.launching.Launcher`. Worker `n` writes what it prints to `folder/worker-n.log`."""

    def __init__(
        self, workers: int | None, threads: int, pin: bool, folder: Path, memory_gb: float | None = None
    ) -> None:
        self.threads, self.folder, self.memory_gb = threads, folder, memory_gb
        self.cores = _cores()
        self.workers = workers or max(1, len(self.cores) // threads)
        self.pinned = pin and hasattr(os, "sched_setaffinity") and self.workers * threads <= len(self.cores)

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """A job is taken from `jobs` when a worker is free for it. At most one worker a job is started."""
        waiting = iter(jobs)
        free = list(range(self.workers))[::-1]
        idle: dict[int, Worker] = {}
        busy: dict[int, Worker] = {}
        try:
            while True:
                while free and (job := next(waiting, None)) is not None:
                    number = free.pop()
                    worker = idle.pop(number, None)
                    if worker is None or worker.process.poll() is not None:
                        worker = Worker(number, function, self)
                    busy[number] = worker
                    worker.start(job)
                if not busy:
                    return
                wait([worker.socket for worker in busy.values()], POLL)
                for number, worker in list(busy.items()):
                    outcome = worker.outcome()
                    if outcome is not None:
                        del busy[number]
                        free.append(number)
                        if outcome.state == "lost":
                            worker.end()
                        else:
                            idle[number] = worker
                        yield outcome
        finally:
            for worker in [*busy.values(), *idle.values()]:
                worker.end()

    def cores_of(self, number: int) -> list[int]:
        """The cores that a worker keeps to; empty: all."""
        return self.cores[number * self.threads : (number + 1) * self.threads] if self.pinned else []


class Worker:
    """A process, and the job that it has."""

    def __init__(self, number: int, function: str, launcher: LocalLauncher) -> None:
        self.socket, theirs = Pipe()
        launcher.folder.mkdir(parents=True, exist_ok=True)
        with theirs, (launcher.folder / f"worker-{number}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock.run.launchers.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **dict.fromkeys(THREADS, str(launcher.threads)), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which ends the workers
            )
        self.job = Job("", {})
        self._out_of_memory = 0
        memory = None if launcher.memory_gb is None else round(launcher.memory_gb * 2**30)
        cores = launcher.cores_of(number)
        self._send({"function": function, "path": sys.path, "cores": cores, "memory": memory})

    def start(self, job: Job) -> None:
        self.job, self._out_of_memory = job, _killed_for_memory()
        self._send(asdict(job))

    def outcome(self) -> Outcome | None:
        """How the job ended, or None while it runs."""
        dead = self.process.poll() is not None  # asked first: what it sent before it died is still read
        if self.socket.poll():
            with suppress(EOFError, OSError):
                return Outcome(**json.loads(self.socket.recv_bytes()))
            dead = True
        return Outcome(self.job.name, "lost", None, self._death()) if dead else None

    def end(self) -> None:
        """Ends the process and those that it started, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.socket.close()

    def _send(self, message: object) -> None:
        with suppress(OSError):  # a worker that has died is found by `outcome`
            self.socket.send_bytes(json.dumps(message).encode())

    def _death(self) -> str:
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "the worker closed its connection"
        if code >= 0:
            return f"the worker ended with exit code {code}"
        if code == -signal.SIGKILL and _killed_for_memory() > self._out_of_memory:
            return "the system killed the worker because memory ran out (SIGKILL)"
        name = signal.Signals(-code).name
        return f"the worker was killed by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")


def _cores() -> list[int]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _killed_for_memory() -> int:
    """How many processes Linux has killed on this machine because memory ran out; 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
