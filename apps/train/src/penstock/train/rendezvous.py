"""How the processes of a run find each other: what the launcher told each of them, and the store in which they meet.

torchrun and `penstock train --ranks` set the same environment variables, and host the store themselves. If ranks are
started by other means, rank 0 hosts it.

torchrun keeps one store for all its restarts, on a fixed port as well as with `--rdzv-backend c10d`. Gloo publishes the
address of each rank there. A restarted rank that is early reads the address of the process that was killed, and waits
for it. So every attempt has keys of its own here.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from penstock.hooks.problems import ExitCode, Problem, ProblemError
from penstock.run import messages

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
HOSTED = "TORCHELASTIC_USE_AGENT_STORE"  # "True": the launcher hosts the store
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
JOINING = 10.0  # minutes until a rank that has not started counts as missing
LOOK = 0.05  # seconds between two looks into the store
SAID_AFTER = 30.0  # seconds of waiting for others until it is said
CONNECTING = timedelta(seconds=4)  # that torch has to connect to a listener, of which it may take three times as many
GONE = 2.0  # seconds without a listener, where there was one, until the rank that listened counts as gone


@dataclass(frozen=True, slots=True)
class Place:
    """What the launcher told this process."""

    rank: int
    ranks: int
    local_rank: int
    host: str
    port: int
    attempt: int
    hosted: bool

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


def place(variables: Mapping[str, str] = os.environ) -> Place:
    """Raises `ProblemError` for variables that are missing, no numbers, or contradict each other."""
    missing = [name for name in VARIABLES if not variables.get(name)]
    if missing:
        what = (
            f"the engine needs the environment variables that a launcher of ranks sets; missing: {', '.join(missing)}"
        )
        fix = "start it with `penstock train --ranks 2 ...` or with torchrun, or use train.engine=local"
        raise ProblemError(Problem("no-ranks", what, "train.engine", fix))
    numbers = {name: _number(name, variables[name]) for name in VARIABLES if name != "MASTER_ADDR"}
    attempt = _number(ATTEMPT, variables.get(ATTEMPT, "0"))
    rank, ranks = numbers["RANK"], numbers["WORLD_SIZE"]
    if not 0 <= rank < ranks:
        raise _contradiction(f"RANK is {rank}, but WORLD_SIZE is {ranks}")
    if not 0 <= numbers["LOCAL_RANK"] <= rank:
        raise _contradiction(f"LOCAL_RANK is {numbers['LOCAL_RANK']}, but RANK is {rank}")
    if not 0 < numbers["MASTER_PORT"] < 2**16:
        raise _contradiction(f"MASTER_PORT is {numbers['MASTER_PORT']}, which is no port")
    hosted = variables.get(HOSTED) == "True"
    address = variables["MASTER_ADDR"], numbers["MASTER_PORT"]
    return Place(rank, ranks, numbers["LOCAL_RANK"], *address, attempt, hosted)


def started_by_launcher(variables: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """How many processes the launcher says it started, and which of them this one is: 1 and 0 without a launcher."""
    if variables.get("RANK") and not variables.get("WORLD_SIZE"):
        raise _contradiction("RANK is set, but WORLD_SIZE is not")
    started = _number("WORLD_SIZE", variables.get("WORLD_SIZE") or "1")
    return started, _number("RANK", variables.get("RANK") or "0")


def meet(place: Place, minutes: float) -> Store:
    """Waits until all ranks have reached the store, and returns it. Raises `ProblemError` if a rank does not start
    within so many minutes, which the lowest rank reports, or if the rank that holds the store exits."""
    deadline = time.monotonic() + 60 * min(minutes, JOINING)
    store = connected(place, deadline)
    try:
        _wait_for_all(place, store, minutes, deadline)
    except dist.DistError as error:
        raise ended_while_they_met(place.rank, error) from error
    return store


def ended_while_they_met(rank: int, error: BaseException) -> ProblemError:
    """The error of a rank that loses another before the group exists."""
    what = f"another rank exited while the ranks met ({str(error).partition(chr(10))[0]})"
    fix = "fix the error on that rank, then start again, or continue from the last checkpoint with --resume"
    return ProblemError(Problem("rank-lost", what, f"rank {rank}", fix), ExitCode.FAILED)


def _wait_for_all(place: Place, store: Store, minutes: float, deadline: float) -> None:
    own = f"process {os.getpid()} of {socket.gethostname()}"
    if store.compare_set(f"process/{place.rank}", "", own).decode() != own:
        what = f"two processes are rank {place.rank}"
        fix = "give each process a RANK of its own, from 0 to WORLD_SIZE - 1"
        raise ProblemError(Problem("bad-ranks", what, "environment", fix))
    store.set(_joined(place.rank), str(place.ranks))
    waited = 0
    while missing := _missing(store, place.ranks, min(SAID_AFTER, deadline - time.monotonic())):
        came = min(rank for rank in range(place.ranks) if rank not in missing)
        if time.monotonic() >= deadline:
            what = f"{listed(missing)} did not start within {min(minutes, JOINING):g} minutes"
            fix = "start all processes, on all machines, with the same WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            problems = [Problem("rank-missing", what, f"rank {place.rank}", fix)] if place.rank == came else []
            raise ProblemError(problems)
        if place.rank == came and not waited:
            messages.note(f"waiting for {listed(missing)} to start")
        waited += 1
    told = {rank: int(store.get(_joined(rank))) for rank in range(place.ranks)}
    if others := [rank for rank, ranks in told.items() if ranks != place.ranks]:
        what = f"WORLD_SIZE is {place.ranks}, and {told[others[0]]} on {listed(others)}"
        fix = "start all processes with the same WORLD_SIZE"
        raise ProblemError(Problem("bad-ranks", what, f"rank {place.rank}", fix))


def connected(place: Place, deadline: float) -> Store:
    """A connection to the store with the keys of this attempt; rank 0 hosts it unless the launcher does. A launcher's
    is there before its ranks are, so a refusal by it is final."""
    hosts = place.rank == 0 and not place.hosted
    seconds = min(max(deadline - time.monotonic(), 1.0), 60.0 if place.hosted else float("inf"))
    limit = timedelta(seconds=seconds)
    try:
        store = _store(place, limit, hosts=True) if hosts else _reached(place, time.monotonic() + seconds)
    except (dist.DistError, ValueError, OSError) as error:
        raise ProblemError(_unreachable(place, str(error), hosts=hosts)) from error
    store.set_timeout(limit)
    return PrefixStore(f"attempt-{place.attempt}", store)


def _store(place: Place, limit: timedelta, *, hosts: bool) -> Store:
    return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        place.host, place.port, is_master=hosts, timeout=limit, wait_for_workers=False, multi_tenant=True
    )


def _reached(place: Place, deadline: float) -> Store:
    """A connection to what listens. A rank that is killed between listening and answering is noticed after `GONE`
    seconds; torch alone would retry for three times the time that it is told."""
    _await_listener(place, deadline)
    while True:
        try:
            return _store(place, CONNECTING, hosts=False)
        except dist.DistError:
            if time.monotonic() >= deadline:
                raise
        try:
            _await_listener(place, time.monotonic() + GONE)
        except OSError as error:
            raise ended_while_they_met(place.rank, error) from error


def _await_listener(place: Place, deadline: float) -> None:
    """Waits for a listener; raises the last `OSError` at the deadline."""
    said_at = time.monotonic() + SAID_AFTER
    while True:
        try:
            with socket.create_connection((place.host, place.port), timeout=max(deadline - time.monotonic(), LOOK)):
                return
        except OSError:
            if time.monotonic() >= deadline:
                raise
            if time.monotonic() > said_at:
                messages.note(f"rank {place.rank} waits for rank 0 to listen at {place.address}")
                said_at = float("inf")
            time.sleep(LOOK)


def device_of(place: Place, device: torch.device) -> torch.device:
    """This rank's GPU, which becomes the current device; any other device is returned unchanged."""
    if device.type != "cuda" or device.index is not None:
        return device
    if place.local_rank >= torch.cuda.device_count():
        what = f"rank {place.rank} is number {place.local_rank + 1} on its machine, which has {_gpus()}"
        fix = "start one process for each GPU, or use train.device=cpu"
        raise ProblemError(Problem("no-device", what, "train.device", fix))
    own = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(own)
    return own


def listed(ranks: Sequence[int]) -> str:
    """
    >>> listed([1]), listed([0, 2])
    ('rank 1', 'ranks 0, 2')
    """
    return f"rank{'' if len(ranks) == 1 else 's'} {', '.join(map(str, ranks))}"


def missing_keys(store: Store, keys: Sequence[str], seconds: float) -> list[str]:
    """The keys that are not there after so many seconds. (A `wait` that runs out prints warnings of its own.)"""
    deadline = time.monotonic() + seconds
    while not store.check(list(keys)):
        if time.monotonic() >= deadline:
            return [key for key in keys if not store.check([key])]
        time.sleep(LOOK)
    return []


def _missing(store: Store, ranks: int, seconds: float) -> list[int]:
    keys = {_joined(rank): rank for rank in range(ranks)}
    return [keys[key] for key in missing_keys(store, list(keys), max(seconds, LOOK))]


def _joined(rank: int) -> str:
    return f"joined/{rank}"


def _unreachable(place: Place, error: str, *, hosts: bool) -> Problem:
    where = f"rank {place.rank}"
    if hosts and ("EADDRINUSE" in error or "already in use" in error):
        fix = "set MASTER_PORT to a free port, or let `penstock train --ranks` choose one"
        return Problem("port-in-use", f"port {place.port} is already in use", where, fix)
    what = (
        f"{'cannot listen at' if hosts else 'cannot reach rank 0 at'} {place.address} ({error.partition(chr(10))[0]})"
    )
    fix = "check MASTER_ADDR and MASTER_PORT, and that a firewall lets the machines reach each other"
    return Problem("unreachable", what, where, fix)


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _contradiction(f"{name} is '{text}', which is no number") from None


def _contradiction(what: str) -> ProblemError:
    fix = "unset it, and start ranks with `penstock train --ranks N ...` or with torchrun, which set all of them"
    return ProblemError(Problem("bad-ranks", what, "environment", fix), ExitCode.USAGE)


def _gpus() -> str:
    count = torch.cuda.device_count()
    return f"{count} GPU{'' if count == 1 else 's'}"
