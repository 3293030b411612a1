"""The ranks of a run as one of them sees the others: who they are, and what it means if one does not answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist

from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.train.rendezvous import (
    connected,
    device_of,
    ended_while_they_met,
    listed,
    meet,
    missing_keys,
    place,
)
from penstock.train.watchdog import ANSWER, END, LATE, POLL, Watchdog, late, within

ERROR, EXIT_CODE = "error", "exit code"
INTERRUPTED = "interrupted"
HEARD = "heard"  # by which ranks
_ECHOES = ("rank-lost", "rank-missing")
AGAIN = 10.0  # seconds for a second connection to the store
WITHOUT_LIMIT = timedelta(days=365)
SILENT = 4 * POLL + 2 * ANSWER  # seconds in which a store that still runs has answered all that a lost rank asks
_GONE = ("Connection reset", "closed by", "Broken pipe")  # what gloo says of a rank that has ended


class RankGroup:
    """Joins the ranks that the launcher started. `timeout` is how many minutes a call may wait for all of them;
    `stacks_after` minutes into it, the stacks of all ranks are printed once."""

    def __init__(self, device: torch.device, *, timeout: float, stacks_after: float) -> None:
        where = place()
        self.rank, self.ranks = where.rank, where.ranks
        self._minutes, self._hosted = timeout, where.hosted
        self.device = device_of(where, device)
        self.store = meet(where, timeout)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(
                backend,
                store=self.store,
                rank=self.rank,
                world_size=self.ranks,
                timeout=timedelta(minutes=timeout),
                device_id=None,
            )
        except RuntimeError as error:
            if isinstance(error, dist.DistNetworkError) or any(sign in str(error) for sign in _GONE):
                raise ended_while_they_met(self.rank, error) from error
            what = f"the ranks cannot connect to each other ({str(error).partition(chr(10))[0]})"
            fix = "set GLOO_SOCKET_IFNAME to the network interface that all machines share"
            raise ProblemError(Problem("unreachable", what, f"rank {self.rank}", fix)) from error
        # A group of its own, because the limit is the group's: others wait as long as the work of one rank takes.
        self._patient = dist.new_group(backend="gloo", timeout=WITHOUT_LIMIT)
        try:
            own = connected(replace(where, hosted=True), time.monotonic() + AGAIN)
        except ProblemError as error:  # the store answered a moment ago
            raise ended_while_they_met(self.rank, error) from error
        self.watchdog = Watchdog(
            own,
            self.rank,
            self.ranks,
            after=60 * min(stacks_after, timeout / 2),
            limit=60 * timeout,
            hosted=where.hosted,
        )

    @contextmanager
    def together(self, *, watched: bool = True, computing: bool = False) -> Iterator[None]:
        """A call that waits for all ranks; raises a `ProblemError` that says why if one never arrives. A `watched` call
        that takes too long prints the stacks of all. Errors of a call that is `computing` too may be its own."""
        try:
            with self.watchdog.waiting(watched=watched):
                yield
        except RuntimeError as error:
            if computing and "gloo" not in str(error) and not isinstance(error, dist.DistError):
                raise
            raise self._lost(error) from error

    def wait_for_all(self) -> None:
        """Returns when all ranks are here. There is no time limit: one rank may do work that the others wait for, such
        as preparing data. A rank that ends is noticed at once."""
        with self.together(watched=False):
            dist.all_reduce(torch.zeros(1), group=self._patient)

    def close(self, error: BaseException | None = None) -> None:
        """Leaves the group. The others learn of an error that they have not caused."""
        if error is None and not self._hosted:  # rank 0's store is there until all have finished
            with suppress(RuntimeError):
                dist.barrier()
        if error is not None and not is_echo(error):
            with suppress(RuntimeError, TimeoutError):  # the process that held the store may be gone
                within(SILENT, lambda: self._tell(error))
        self.watchdog.stop()
        dist.destroy_process_group()
        if error is not None and not is_echo(error) and self.rank == 0 and not self._hosted:
            # The store ends with this process.
            missing_keys(self.store, [f"{HEARD}/{rank}" for rank in range(1, self.ranks)], ANSWER)

    def _tell(self, error: BaseException) -> None:
        self.store.set(f"{HEARD}/{self.rank}", "")
        if isinstance(error, KeyboardInterrupt):
            self.store.set(INTERRUPTED, "")
        else:
            code = error.exit_code if isinstance(error, ProblemError) else ExitCode.FAILED
            self.store.set(EXIT_CODE, str(int(code)))
            self.store.set(ERROR, f"rank {self.rank}: {_said(error)}")
        if isinstance(error, Exception):
            self.store.set(END, "")

    def _lost(self, error: RuntimeError) -> BaseException:
        """What to raise where another rank is gone."""
        try:
            return within(SILENT, lambda: self._reason(error))
        except TimeoutError:  # a process that is stopped, or a machine that is away, keeps its connections
            what = "rank 0, which holds the ranks together, does not answer; it is stopped, or its machine is away"
            return _rank_lost(what, self.rank)

    def _reason(self, error: RuntimeError) -> BaseException:
        """After Ctrl-C ranks are interrupted one after another."""
        with suppress(RuntimeError):
            if self._was_said(INTERRUPTED):
                return KeyboardInterrupt()
        code = self._exit_code()  # before rank 0, whose store it may be, has gone
        what, speaks = self._explained(error)
        return _rank_lost(what, self.rank, code) if speaks else ProblemError([], code)

    def _explained(self, error: RuntimeError) -> tuple[str, bool]:
        """What happened to the others, and whether this rank is the one to say so: the lowest that is still there,
        unless rank 0 has said it."""
        told = ""
        try:
            told = self._told()
            answers = self.watchdog.ask(END, self.store)
            told = told or self._told()  # the launcher may need a moment to see that one was killed
        except RuntimeError:
            how = f" ({told})" if told else ": rank 0, which held the ranks together, is gone"
            return f"another rank exited{how}", not told.startswith("rank 0: ")
        speaks = self.rank == min(answers) and not told.startswith("rank 0: ")
        if told:
            return f"another rank exited ({told})", speaks
        gone = [rank for rank in range(self.ranks) if rank not in answers]
        if "Timed out" in str(error) or "timed out" in str(error):
            missing = late(answers, self.ranks)
            for rank in missing:
                self.store.set(f"{LATE}/{rank}", "")
            time.sleep(2 * POLL)  # until they have read it: the store may be this process
            who = listed(missing) if missing else "an answer of another rank"
            return f"{who} did not arrive within {self._minutes:g} minutes", speaks
        if gone:
            return f"another rank exited: {listed(gone)} ended without a word (killed, or its machine failed)", speaks
        return f"another rank exited ({error})", speaks

    def _exit_code(self) -> ExitCode:
        """That of the rank that failed: all end alike."""
        with suppress(RuntimeError):
            if self.store.check([EXIT_CODE]):
                return ExitCode(int(self.store.get(EXIT_CODE)))
        return ExitCode.FAILED

    def _told(self) -> str:
        """The error of the rank that failed first; empty if it could not say it."""
        return self.store.get(ERROR).decode(errors="replace") if self._was_said(ERROR) else ""

    def _was_said(self, key: str) -> bool:
        there = self.store.check([key])
        if there:
            self.store.set(f"{HEARD}/{self.rank}", "")
        return there


def _rank_lost(what: str, rank: int, code: ExitCode = ExitCode.FAILED) -> ProblemError:
    fix = "fix the error on that rank, then continue from the last checkpoint with --resume"
    return ProblemError(Problem("rank-lost", what, f"rank {rank}", fix), code)


def is_echo(error: BaseException) -> bool:
    """Whether the error only says that another rank failed."""
    return isinstance(error, ProblemError) and all(problem.code in _ECHOES for problem in error.problems)


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, ProblemError) else f"{type(error).__name__}: {error}"
