"""A thread of each rank that looks after the others: it finds calls in which some rank does not arrive, and answers for
its rank when another asks what it is doing.

Only calls between ranks are watched: whoever waits there too long asks all ranks for their stacks. A rank that computes
is not, and neither are calls in which the others wait for work that one rank does on purpose (data, checkpoints).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from torch.distributed.distributed_c10d import Store

from penstock.hooks.problems import ExitCode
from penstock.run import messages
from penstock.train.rendezvous import listed, missing_keys

T = TypeVar("T")
POLL = 1.0  # seconds
ANSWER = 6 * POLL  # seconds that a living rank needs at most to answer, on a machine that is busy
STACKS, END = "stacks", "end"  # what can be asked; nothing goes on after END
LATE = "late"  # ranks that are not waited for any longer
ENDING = 120.0  # seconds that a rank has to end by itself once another has failed


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises; raises `TimeoutError` if it does not end in time, and leaves its thread to it. A
    call to a store whose process is stopped never ends."""
    done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((True, call()))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=run, name="store", daemon=True).start()
    try:
        fine, result = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if not fine:
        raise result
    return result


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rank is doing: how many calls between ranks it has begun, and the stacks of its threads."""

    calls: int
    waiting: bool
    stacks: str


class Watchdog:
    """`store` is a connection of its own; `after` seconds of waiting are too long. If the launcher `hosts` the store,
    the loss of it means that the launcher is gone: the rank stops with a checkpoint, as after SIGTERM."""

    def __init__(self, store: Store, rank: int, ranks: int, *, after: float, limit: float, hosted: bool) -> None:
        self._store, self.rank, self.ranks = store, rank, ranks
        self._after, self._limit, self._hosted = after, limit, hosted
        self._calls = 0
        self._since: float | None = None  # when the current call began, if it is watched
        self._waiting = False
        self._answered: set[str] = set()
        self._ending: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self, *, watched: bool) -> Iterator[None]:
        """A call that all ranks must make."""
        self._calls += 1
        before = self._waiting, self._since
        self._waiting, self._since = True, time.monotonic() if watched else None
        try:
            yield
        finally:
            self._waiting, self._since = before

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=ANSWER)

    def ask(self, question: str, store: Store) -> dict[int, Answer]:
        """What each rank answers; a rank that is gone, or whose threads cannot run, has no answer."""
        self._answer(question, store)
        store.set(question, "")
        keys = {rank: f"{question}/{rank}" for rank in range(self.ranks)}
        silent = missing_keys(store, list(keys.values()), ANSWER)
        return {rank: Answer(**json.loads(store.get(key))) for rank, key in keys.items() if key not in silent}

    def _watch(self) -> None:
        try:
            while not self._stopped.wait(POLL):
                self._look()
        except RuntimeError:  # the store is gone
            if not self._stopped.is_set():
                self._stop_without_store()

    def _look(self) -> None:
        for question in (STACKS, END):
            if question not in self._answered and self._store.check([question]):
                self._answer(question, self._store)
        if END in self._answered:
            if self._store.check([f"{LATE}/{self.rank}"]):
                _exit(f"rank {self.rank}: ends, because the others have waited too long for it")
            self._ending = self._ending or time.monotonic()
            if time.monotonic() - self._ending > ENDING:
                _exit(f"rank {self.rank}: ends, because another rank has failed")
        # Rank 0 asks first where it waits, because its output is what a user reads.
        if self._waited() > self._after + (ANSWER if self.rank else 0) and STACKS not in self._answered:
            self._report()

    def _report(self) -> None:
        if self._store.add("asking", 1) > 1:
            return
        messages.warn(report(self.ask(STACKS, self._store), self.ranks, self._after, self._limit))

    def _waited(self) -> float:
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _answer(self, question: str, store: Store) -> None:
        self._answered.add(question)
        answer = Answer(self._calls, self._waiting, _stacks(without=self._thread))
        store.set(f"{question}/{self.rank}", json.dumps(asdict(answer)))

    def _stop_without_store(self) -> None:
        """Without its launcher a rank stops as after SIGTERM; without rank 0, its next call fails. One that then still
        waits for another, or never ends its step, just ends."""
        if self._hosted:
            os.kill(os.getpid(), signal.SIGTERM)
        begun, calls = time.monotonic(), self._calls
        while not self._stopped.wait(ANSWER):
            if self._calls != calls:
                begun, calls = time.monotonic(), self._calls
            if time.monotonic() - begun > (ENDING / 4 if self._waiting else self._limit):
                _exit(f"rank {self.rank}: ends, because {'the launcher' if self._hosted else 'rank 0'} is gone")


def late(answers: Mapping[int, Answer], ranks: int) -> list[int]:
    """The ranks that have not begun the call in which others wait, or do not answer."""
    most = max((answer.calls for answer in answers.values()), default=0)
    return [rank for rank in range(ranks) if rank not in answers or answers[rank].calls < most]


def report(answers: Mapping[int, Answer], ranks: int, after: float, limit: float) -> str:
    """What each rank is doing, in words and stacks; ranks with equal stacks share them."""
    missing = late(answers, ranks)
    waiting = [rank for rank in answers if rank not in missing]
    who = f"for {listed(missing)}" if missing else "in a call that all have begun"
    lines = [
        f"{listed(waiting)} waited {_minutes(after)} {who}; this is said once, and the run fails after "
        f"{_minutes(limit)} (train.engine.timeout)"
    ]
    by_stacks: dict[str, list[int]] = {}
    for rank, answer in sorted(answers.items()):
        by_stacks.setdefault(answer.stacks, []).append(rank)
    silent = [rank for rank in missing if rank not in answers]
    if silent:
        lines.append(f"{listed(silent)}: no answer; the process is gone, stopped, or stuck outside of Python")
    return "\n".join([*lines, *(f"{listed(same)}:\n{stacks}" for stacks, same in by_stacks.items())])


def _stacks(*, without: threading.Thread) -> str:
    """The stack of every thread but this one, the main thread's first."""
    frames = sys._current_frames()
    threads: Sequence[threading.Thread] = sorted(
        threading.enumerate(), key=lambda thread: thread is not threading.main_thread()
    )
    return "\n".join(
        f"  {thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident])).rstrip()}"
        for thread in threads
        if thread is not without and thread.ident in frames
    )


def _minutes(seconds: float) -> str:
    """
    >>> _minutes(300), _minutes(60), _minutes(3)
    ('5 minutes', '1 minute', '3 seconds')
    """
    if seconds < 60:
        return f"{seconds:g} seconds"
    return f"{seconds / 60:g} minute{'' if seconds == 60 else 's'}"


def _exit(why: str) -> None:
    with suppress(OSError):
        os.write(2, f"{why}\n".encode())
    os._exit(ExitCode.FAILED)
