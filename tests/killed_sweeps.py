"""Kills a real `penstock sweep` and its workers at random moments, starts it again each time, and tells what it found.

A moment is so many results and checkpoints after the start of the controller or the last kill, and a fraction of a
second. Importing torch takes seconds, so a server process imports everything once and forks a controller for each
start; its workers, new interpreters elsewhere, are forks of it. Everything else is as it is.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from crash import CONFIG, server_process, write_corpus

# Steps have 64 tokens. A short run has 10 steps, of which the last two decay, so that a final run of the same seed
# begins after 8.
SWEEP = """\
name: killed
config: tiny.yaml
set:
  train.tokens: 1280
  train.micro_batch_size: 4
  train.evaluate_every: null
  train.checkpoint_every: 3
  train.schedule: {use: wsd, warmup_tokens: 128, decay_tokens: 128}
axes:
  rate:
    low: {train.optimizer: {use: adamw, lr: 0.001}}
    high: {train.optimizer: {use: adamw, lr: 0.02}}
  width:
    narrow: {model.hidden_size: 16}
    wide: {model.hidden_size: 32}
seeds: [0, 1]
phases: {short: {tokens: 640, schedule: trunk}, finalists: 2}
objectives: {bits_per_byte: minimize, parameters: minimize}
launcher: LAUNCHER
"""
INTERVAL = 3
"""Steps between checkpoints."""
WHO = ("controller", "worker", "all")
"""In turn, so that no two kills of workers follow each other: two deaths of a run at one place are taken for its own
fault."""
LONGEST = 300.0  # seconds from one kill to the next or to the end; a sweep that takes longer is stuck
TIMES = ("latency_128", "latency_512", "tokens_per_second", "peak_memory")
MEASURED = ("seconds", "machine", "run", "nanoseconds_per_token", "picoseconds_per_flop", "hours", *TIMES)
RESUMING = re.compile(r"resuming (\S+) from step (\d+) of")


@dataclass(frozen=True, slots=True)
class Kill:
    """Who was killed, after how many results and checkpoints, and the steps that each run repeated because of it."""

    who: str
    after: int
    repeated: tuple[int, ...]


def write_sweep(folder: Path, launcher: str = "{use: local, workers: 2, pin: false}") -> Path:
    """The sweep file, with the config and the corpus that it needs; launcher "null" trains in the controller."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(CONFIG.format(corpus=write_corpus(folder / "corpus")))
    path = folder / f"killed-{'alone' if launcher == 'null' else 'workers'}.yaml"
    path.write_text(SWEEP.replace("LAUNCHER", launcher))
    return path


class SweepServer:
    """`with SweepServer() as server: server.sweep(FILE, RUNS)`, or `server.killed_sweep(...)`."""

    def __enter__(self) -> SweepServer:
        self._process = server_process(__file__)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self, sweep_file: Path, runs: Path) -> Controller:
        """`penstock sweep` in a process of its own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        log = runs.parent / "controller.log"
        command = {"argv": ["sweep", str(sweep_file), "--runs", str(runs)], "log": str(log)}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return Controller(int(self._process.stdout.readline()), log)

    def sweep(self, sweep_file: Path, runs: Path) -> Path:
        """Takes the sweep to its end; returns its folder."""
        controller = self.start(sweep_file, runs)
        _until(lambda: False, controller)
        controller.require_success()
        return runs / "killed"

    def killed_sweep(self, sweep_file: Path, runs: Path, generator: random.Random, kills: int) -> list[Kill]:
        """The same with at most so many kills on the way; fewer if it was quicker."""
        sweep, seen = runs / "killed", set[Path]()
        noted: list[tuple[str, int, dict[Path, int], dict[Path, int]]] = []
        controller = self.start(sweep_file, runs)
        try:
            while True:
                who = WHO[len(noted) % len(WHO)] if len(noted) < kills else None
                if not _until(_moment(sweep, seen, generator, who), controller):
                    controller.require_success()
                    return [Kill(who, after, _repeated(sweep, *before)) for who, after, *before in noted]
                time.sleep(generator.uniform(0, 0.3))
                if who is None or not controller.lives:
                    continue
                _kill(who, controller, generator)
                noted.append((who, len(seen), _steps(sweep), _sizes(sweep)))
                if who != "worker":
                    _until(lambda: False, controller)
                    controller = self.start(sweep_file, runs)
        finally:
            for pid in [*controller.workers(), controller.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Controller:
    """A process that runs a sweep. Its exit status is the last line of its log, unless it was killed."""

    pid: int
    log: Path

    @property
    def lives(self) -> bool:
        return _parent(self.pid) is not None

    def workers(self) -> list[int]:
        """Its processes, from what Linux says of all."""
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return sorted(pid for pid in pids if _parent(pid) == self.pid)

    def require_success(self) -> None:
        text = self.log.read_text()
        assert text.endswith("\nexit status 0\n"), text[-4000:]


def _parent(pid: int) -> int | None:
    """The parent of a process; None if it has ended."""
    with suppress(OSError):
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return None if state in "ZX" else int(parent)
    return None


def findings(sweep: Path) -> dict[str, Any]:
    """Everything that a sweep has found, except what a clock measures and the names of its runs."""
    found = {
        path.relative_to(sweep).as_posix(): _without_clocks(json.loads(path.read_text()))
        for pattern in ("cells/*/*/rungs/*.json", "cells/*/*/failed.json", "cells/*/shape.json", "sweep.json")
        for path in sweep.glob(pattern)
    }
    decisions = [json.loads(line) for line in (sweep / "decisions.jsonl").read_text().splitlines()]
    return {**found, "decisions": decisions}


def pareto_set(sweep: Path) -> set[str]:
    """The cells on the front of the sweep's objectives."""
    from penstock.run.records.record import read_record
    from penstock.run.records.sweep import SweepFigures
    from penstock.sweep.analysis import analyse
    from penstock.sweep.documents import Documents

    figures = read_record(SweepFigures, sweep / "sweep.json")
    assert figures is not None
    (*_, front) = analyse(figures, Documents()).objective_fronts
    return {member.cell for member in front.members if member.on_front}


def _moment(sweep: Path, seen: set[Path], generator: random.Random, who: str | None) -> Callable[[], bool]:
    """Whether it is time to kill: after one to five new results and checkpoints; never if nobody is to be killed."""
    count = len(seen) + generator.randint(0, 4)
    return lambda: who is not None and len(_changed(sweep, seen)) > count


def _until(reached: Callable[[], bool], controller: Controller) -> bool:
    """Waits for a moment, or until the controller has ended: False."""
    end = time.monotonic() + LONGEST
    while controller.lives:
        if reached():
            return True
        assert time.monotonic() < end, "the sweep is stuck"
        time.sleep(0.005)
    return False


def _changed(sweep: Path, seen: set[Path]) -> set[Path]:
    """Adds the results and checkpoints that are new."""
    for pattern in ("cells/*/*/rungs/*.json", "*/checkpoints/step-*"):
        seen.update(sweep.glob(pattern))
    return seen


def _kill(who: str, controller: Controller, generator: random.Random) -> None:
    workers = controller.workers()
    chosen = {"controller": [], "worker": generator.sample(workers, min(1, len(workers))), "all": workers}[who]
    for pid in [*chosen, *([] if who == "worker" else [controller.pid])]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _steps(sweep: Path) -> dict[Path, int]:
    """The last step that each run has recorded."""
    found: dict[Path, int] = {}
    for path in sweep.glob("2*/metrics.jsonl"):
        lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        if lines:
            found[path.parent] = json.loads(lines[-1])["step"]
    return found


def _logs(sweep: Path) -> Iterator[Path]:
    yield from sorted(sweep.glob("logs/worker-*.log"))


def _sizes(sweep: Path) -> dict[Path, int]:
    return {log: log.stat().st_size for log in _logs(sweep)}


def _repeated(sweep: Path, steps: dict[Path, int], sizes: dict[Path, int]) -> tuple[int, ...]:
    """Steps that were trained again: from where a run was resumed next, to where it had been at the kill."""
    resumed: dict[str, int] = {}
    for log in _logs(sweep):
        for run, step in RESUMING.findall(log.read_bytes()[sizes.get(log, 0) :].decode(errors="replace")):
            resumed[Path(run).name] = min(resumed.get(Path(run).name, sys.maxsize), int(step))
    pairs = [(step, resumed[run.name]) for run, step in steps.items() if run.name in resumed]
    return tuple(before - after for before, after in pairs if before > after)


def _without_clocks(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _without_clocks(value) for name, value in found.items() if name not in MEASURED}
    return [_without_clocks(each) for each in found] if isinstance(found, list) else found


# ---------------------------------------------------------------------------------------------- the server's side


def serve() -> None:
    """Reads a line of JSON for each controller from stdin, forks it, and answers its process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for controllers
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            control(**json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def control(argv: list[str], log: str) -> None:
    """A controller from its start to its end."""
    from penstock.cli.main import main
    from penstock.run.launchers import local

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _print_to(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    local.__dict__["subprocess"] = SimpleNamespace(Popen=Fork, **{name: getattr(subprocess, name) for name in PASSED})
    status: object = 70
    try:
        main(argv)
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(1, f"\nexit status {status}\n".encode())
        os._exit(0)


PASSED = ("DEVNULL", "TimeoutExpired")


class Fork:
    """Stands for `subprocess.Popen` of a worker: a fork of this process has imported what the worker needs."""

    def __init__(self, command: list[str], *, stdout: Any, env: dict[str, str], **_: object) -> None:
        from penstock.run.launchers import worker

        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            descriptor = int(command[-1])
            os.setsid()
            _print_to(stdout.fileno())
            os.closerange(3, descriptor)  # as in a new interpreter: the sockets of other workers, the sweep's lock
            os.closerange(descriptor + 1, 1024)
            os.environ.update(env)
            try:
                worker.main(descriptor)
            finally:
                os._exit(1)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a worker", timeout)
            time.sleep(0.005)
        return status


def _print_to(descriptor: int) -> None:
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


if __name__ == "__main__":
    import torch

    for name in ("command", "controller", "worker", "report", "figures", "shape", "finished"):
        importlib.import_module(f"penstock.sweep.{name}")
    torch.set_num_threads(1)
    serve()
