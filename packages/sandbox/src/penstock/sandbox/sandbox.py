"""Runs programs that a model wrote, each in a fresh process that is locked in, and says what became of them."""

from __future__ import annotations

import os
import queue
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from penstock.hooks.problems import ProblemError
from penstock.sandbox.cgroups import remove_left_groups
from penstock.sandbox.levels import foreign_machine
from penstock.sandbox.settings import require_settings
from penstock.sandbox.verdict import Level, Limits, Verdict
from penstock.sandbox.worker import Worker

MOST_SOURCE = 16 << 20
"""Bytes of a program."""


class Sandbox:
    """A program is the source of a Python module. It has the standard library of this interpreter and, at level `full`,
    an empty folder of its own, which is its working directory.

    - `full`: namespaces of users, processes, files, network and IPC, Landlock, seccomp, limits, control groups.
    - `reduced`: Landlock and seccomp: no network, no writes, no processes, no other programs; limits.
    - `none`: a process with limits and a time. What it does to the machine is done.

    `workers` programs run at once. Raises `ProblemError` for settings out of their range, and if this machine does not
    give the level; no lower one is taken instead. Close it, or use it in a `with`; at the latest it is closed with the
    process.
    """

    def __init__(self, level: Level = "full", *, limits: Limits | None = None, workers: int = 1) -> None:
        self.limits = limits or Limits()
        require_settings(level, self.limits, workers)
        foreign = foreign_machine()
        if level != "none" and foreign is not None:
            raise ProblemError(foreign)
        self.level: Level = level
        remove_left_groups()
        self._owner = os.getpid()
        self._workers: list[Worker] = []
        self._closing = weakref.finalize(self, _close, self._workers)
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(workers):
            worker = Worker(level, self.limits)
            self._workers.append(worker)
            self._idle.put(worker)

    def run(self, program: str | bytes) -> Verdict:
        """The verdict on one program. It takes one of the workers, and waits for one: threads may share a sandbox.
        Raises `ValueError` for what is neither text nor bytes, after `close`, and in a process that was forked from the
        sandbox's own: two that share a worker would read one another's verdicts."""
        if not isinstance(program, str | bytes):
            raise ValueError(f"a program is text or bytes, not {type(program).__name__}")
        if not self._closing.alive:
            raise ValueError("the sandbox is closed")
        if os.getpid() != self._owner:
            raise ValueError("a sandbox is of the process that made it: make one in each process")
        # Half of a surrogate pair becomes bytes that are not UTF-8, which the verdict then says.
        source = program if isinstance(program, bytes) else program.encode("utf-8", "surrogatepass")
        if len(source) > MOST_SOURCE:
            return Verdict("not a program", f"is longer than {MOST_SOURCE} bytes")
        worker = self._idle.get()
        try:
            return worker.run(source)
        finally:
            self._idle.put(worker)

    def run_all(self, programs: Iterable[str | bytes]) -> Iterator[Verdict]:
        """The verdicts in the order of the programs, which run on all workers at once."""
        threads = ThreadPoolExecutor(len(self._workers))
        try:
            yield from threads.map(self.run, programs)
        finally:  # where the rest is not wanted, it is not run
            threads.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Ends all processes of the sandbox."""
        self._closing()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _close(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.close()
