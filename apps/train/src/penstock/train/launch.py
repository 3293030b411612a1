"""Starts the ranks of a run on this machine, shows what they say, and ends them together.

Ranks are told what torchrun tells them, and meet in a store that the launcher hosts on a free port. torchrun's own
agent is not used: after a signal it kills ranks that have not ended in 30 seconds, which may be in the middle of a
checkpoint; it prints a page for each failure, and it overwrites the logs of a run that goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.run import messages
from penstock.train.group import ERROR
from penstock.train.rendezvous import ATTEMPT, HOSTED, started_by_launcher
from penstock.train.signals import is_hang_up, stop_signals

HOST = "127.0.0.1"
GRACE = 30.0  # seconds that ranks have to end by themselves once one has failed
POLL = 0.1  # seconds
THREADS = "OMP_NUM_THREADS"
FINAL = (ExitCode.USAGE, ExitCode.PLUGIN, ExitCode.INTERRUPTED)  # starting again would end in the same way
EXPLAINED = (ExitCode.FAILED, ExitCode.USAGE, ExitCode.PLUGIN)  # of a process that has said why


@dataclass(frozen=True, slots=True)
class End:
    """How the ranks ended: the first that failed, if one did, and its exit code or negative signal. `explained`: some
    rank has said why."""

    code: int
    rank: int | None = None
    explained: bool = True

    def __str__(self) -> str:
        how = f"was killed by {_name_of(-self.code)}" if self.code < 0 else f"ended with code {self.code}"
        return f"rank {self.rank} {how}"


def require_no_launcher() -> None:
    """Raises `ProblemError` in a process that is a rank already; rank 0 alone says so."""
    started, number = started_by_launcher()
    if "RANK" in os.environ or started > 1:
        what = f"this process is rank {number} of {started} already, started by torchrun or another launcher"
        fix = "leave out --ranks, start one process, or unset RANK and WORLD_SIZE if no launcher set them"
        raise ProblemError([] if number else [Problem("wrong-ranks", what, "--ranks", fix)])


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(ranks: int) -> int:
    """Threads of each rank; a number that the user set for a process wins, of a list the first. Raises `ProblemError`
    for what is no number."""
    given = os.environ.get(THREADS, "").strip()
    if not given:
        return max(1, cores() // ranks)
    first = given.partition(",")[0].strip()
    if not first.isdecimal() or int(first) == 0:
        what = f"{THREADS} is '{given}', which is no number of threads"
        raise ProblemError(Problem("bad-value", what, "environment", "set it to 1 or more, or unset it"))
    return int(first)


def launched(command: Sequence[str], ranks: int, logs: Path, *, max_restarts: int) -> None:
    """Runs the command as so many ranks until it is done; raises `ProblemError` with the exit code of the rank that
    failed first. After a failure it starts again up to `max_restarts` times, unless that would end in the same way: a
    rank was used wrongly, or two attempts in a row end with one error."""
    if ranks > cores():
        messages.warn(f"{ranks} ranks share {cores()} cores: each is slower than it would be alone")
    logs.mkdir(exist_ok=True)
    store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    said = ""
    for attempt in range(max_restarts + 1):
        own = PrefixStore(f"attempt-{attempt}", store)
        end = _attempt(command, ranks, logs, store.port, attempt, own)
        if end.code in (ExitCode.DONE, *FINAL) or attempt == max_restarts:
            break
        before, said = said, own.get(ERROR).decode(errors="replace") if own.check([ERROR]) else ""
        if end.code > 0 and said and said == before:
            messages.note(f"{end} with the error of the attempt before: starting again would not help")
            break
        messages.note(f"{end}: continuing from the last checkpoint (restart {attempt + 1} of {max_restarts})")
    if end.code:
        fix = "continue from the last checkpoint with --resume"
        problems = [] if end.explained else [Problem("rank-lost", str(end), fix=fix)]
        raise ProblemError(problems, ExitCode(end.code) if end.code in set(ExitCode) else ExitCode.FAILED)


def _attempt(command: Sequence[str], ranks: int, logs: Path, port: int, attempt: int, store: PrefixStore) -> End:
    told = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        HOSTED: str(True),
        ATTEMPT: str(attempt),
        THREADS: os.environ.get(THREADS) or str(threads_of(ranks)),
    }
    with _Processes(ranks, logs) as processes, processes.signals_passed_on():
        processes.start(command, told)
        return processes.ended(store)


class _Processes:
    """The processes of one attempt; none outlives the block. Rank 0 has this process's terminal; what the others print
    goes to their logs, and from there to stderr with their rank before each line."""

    def __init__(self, ranks: int, logs: Path) -> None:
        self._ranks, self._logs = ranks, logs
        self._asked_to_stop = False
        self._view = _View({rank: _log(logs, rank) for rank in range(1, ranks)})
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Processes:
        self._view.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running():
            process.kill()
        for process in self._processes:
            process.wait()
        self._view.stop()

    def start(self, command: Sequence[str], told: dict[str, str]) -> None:
        """Raises `KeyboardInterrupt` after a signal: a rank that is not there yet cannot be told of it."""
        for rank in range(self._ranks):
            self._processes.append(self._start(command, told, rank))
            if self._asked_to_stop:
                raise KeyboardInterrupt

    @contextmanager
    def signals_passed_on(self) -> Iterator[None]:
        """Signals that ask this process to stop reach every rank as SIGTERM, which asks it to stop after the step; a
        second one acts at once. A rank that is just starting ends without a traceback."""

        def pass_on(number: int, frame: FrameType | None) -> None:
            if is_hang_up(number) and self._asked_to_stop:
                return
            self._asked_to_stop = True
            for process in self._running():
                process.send_signal(signal.SIGTERM)

        if threading.current_thread() is not threading.main_thread():  # which alone has signals
            yield
            return
        previous = {each: signal.signal(each, pass_on) for each in stop_signals()}
        try:
            yield
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def ended(self, store: PrefixStore) -> End:
        """Waits for all ranks; once one has failed, the others have `GRACE` seconds left."""
        first: End | None = None
        deadline = float("inf")
        while running := self._running():
            time.sleep(POLL)
            if first is None and (first := self._failed()) is not None:
                deadline = time.monotonic() + GRACE
                if first.code < 0:  # it could not say so itself
                    store.set(ERROR, str(first))
            if time.monotonic() > deadline:
                for process in running:
                    process.kill()
        failed = first or self._failed()
        if failed is None:
            return self._stopped()
        return replace(failed, explained=any(process.returncode in EXPLAINED for process in self._processes))

    def _start(self, command: Sequence[str], told: dict[str, str], rank: int) -> subprocess.Popen[bytes]:
        quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # without the stack of each connection that ends
        variables = {**quiet, **os.environ, **told, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        if rank == 0:
            return subprocess.Popen(command, env=variables, start_new_session=True)
        with _log(self._logs, rank).open("ab") as log:
            return subprocess.Popen(command, env=variables, start_new_session=True, stdout=log, stderr=log)

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self._processes if process.poll() is None]

    def _failed(self) -> End | None:
        """How the rank that failed first ended. Ranks that a signal stopped have not failed."""
        fine = [ExitCode.DONE, ExitCode.INTERRUPTED, *([-signal.SIGTERM] if self._asked_to_stop else [])]
        codes = [process.poll() for process in self._processes]
        wrong = [(rank, code) for rank, code in enumerate(codes) if code is not None and code not in fine]
        if not wrong:
            return None
        # One that was killed, and one that would be again, before one that says that it has lost another.
        rank, code = min(wrong, key=lambda each: (each[1] > 0, each[1] not in FINAL, each[1], each[0]))
        return End(code, rank)

    def _stopped(self) -> End:
        if self._processes[0].returncode == -signal.SIGTERM:  # before it could say so
            raise KeyboardInterrupt
        stopped = any(process.returncode for process in self._processes)
        return End(ExitCode.INTERRUPTED if stopped else ExitCode.DONE)


def _name_of(number: int) -> str:
    """
    >>> _name_of(9), _name_of(40)
    ('SIGKILL', 'signal 40')
    """
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


class _View:
    """Copies what is appended to the logs of ranks to stderr, whole lines with their rank before them."""

    def __init__(self, logs: dict[int, Path]) -> None:
        self._files = {}
        for rank, log in logs.items():
            self._files[rank] = log.open("a+b")
        self._rest = dict.fromkeys(logs, b"")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="logs of ranks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        for rank, file in self._files.items():
            if self._rest[rank]:
                self._show(rank, self._rest[rank])
            file.close()

    def _follow(self) -> None:
        ending = False
        while not ending:
            ending = self._stopped.wait(2 * POLL)
            for rank, file in self._files.items():
                *lines, self._rest[rank] = (self._rest[rank] + file.read()).split(b"\n")
                for line in lines:
                    self._show(rank, line)

    def _show(self, rank: int, line: bytes) -> None:
        print(f"rank {rank}: {line.decode(errors='replace')}", file=sys.stderr, flush=True)  # noqa: T201


def _log(logs: Path, rank: int) -> Path:
    return logs / f"rank-{rank}.log"
