"""Kills real `penstock` processes at chosen or random moments, cheaply, and compares what is left of their runs.

Importing torch takes seconds, so a server process imports everything once and forks a child for each command line. The
child runs the command as it is; what is injected lies outside of our code:

    at          {"seconds": 0.3} or {"stage": "backward", "nth": 5, "delay": 0.001}: SIGKILL by the server then
    signals     [["_forward", 5, SIGTERM], ...]: the child sends itself a signal when it enters a function the n-th time
    event       SIGKILL just before the n-th change of a file below `cwd` (open to write, fsync, rename, remove, ...)
    file_size   bytes that a file may have (RLIMIT_FSIZE); writing more fails, or with `fatal` ends the process there
    clock       seconds by which the wall clock is off, the sign changing at every reading

Before a SIGKILL the child's stack is taken by faulthandler, so it is known what was hit. A command line can be run by
several children at once, as torchrun starts ranks: one of them gets the faults, and all must end by themselves.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import itertools
import json
import math
import os
import random
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from penstock.conformance.ranks import torchrun_variables

# Several micro-batches a step, evaluation and checkpoints often: a life of less than a second, with every stage in it.
CONFIG = """\
name: tiny
data:
  corpus: {{use: text, paths: ["{corpus}"]}}
  tokenizer: {{vocab_size: 300}}
  sequence_length: 16
  heldout_share: 0.3
model:
  use: glm-moe
  preset: quickstart
  hidden_size: 16
  num_hidden_layers: 2
  num_attention_heads: 2
  num_key_value_heads: 1
  head_dim: 8
  intermediate_size: 16
  moe_intermediate_size: 8
  router: {{use: sigmoid-topk, k: 2, noise: 0.5}}
  balance:
    - {{use: loss-free, rate: 0.01}}
    - {{use: switch-loss, weight: 0.001}}
    - {{use: global-loss, weight: 0.1, counts: lagged}}
  sharing: [{{use: tied-embeddings}}]
train:
  tokens: 384
  batch_size: 4
  micro_batch_size: 1
  evaluate_every: 2
  evaluate_tokens: 256
  checkpoint_every: 2
  trackers: [jsonl]
"""
STEPS, MICRO_BATCHES = 6, 4
LIMIT = 30.0  # seconds that ranks have to end once one of them was killed
OURS = re.compile(r"penstock/(cli|data_prep|train)/")  # whose functions are counted

# Function (innermost first) to the stage that it is a part of; `step` and `backward` are the engine's.
STAGES = {
    "_prepare": "prepare",
    "create": "run directory",
    "_load": "load checkpoint",
    "tidy": "load checkpoint",
    "_forward": "forward",
    "backward": "backward",
    "clip": "optimizer",
    "step": "optimizer",
    "update": "balancer",
    "_evaluate": "evaluation",
    "on_checkpoint": "trace",
    "write_checkpoint": "checkpoint",
    "log": "metrics",
    "_status": "status",
    "write_status": "status",
    "_close": "end",
    "record_stage": "end",
    "_train_step": "rest of a step",
    "_train": "start-up",
    "train": "start-up",
}
# What is aimed at inside a life: how often it is entered, and about how many seconds it takes.
AIMS = {
    "create": (1, 0.03),
    "_prepare": (1, 0.06),
    "_forward": (STEPS * MICRO_BATCHES, 0.004),
    "backward": (STEPS * MICRO_BATCHES, 0.004),
    "step": (STEPS, 0.004),
    "_evaluate": (STEPS // 2, 0.01),
    "on_checkpoint": (STEPS // 2, 0.005),
    "write_checkpoint": (STEPS // 2, 0.03),
    "log": (STEPS, 0.0005),
    "_status": (1, 0.002),
}
RANK_0_ALONE = {"create", "_prepare", "on_checkpoint", "log", "_status"}
# What a clock measures differs between runs; everything else must not.
CLOCK = ("elapsed", "tokens_per_second", "seconds/")


def write_corpus(folder: Path) -> Path:
    """Documents whose letters a small model can learn: real sentences, each a little different."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(40):
        lines = [f"def gate_{number}_{line}(water):\n    return turbine(water, {line})\n" for line in range(6)]
        (folder / f"{number:02}.txt").write_text("".join(lines))
    return folder


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: exit status (negative: the signal; None: it had to be killed, because it did not end in
    time), what it printed, where it was when it was killed, and every change of a file that it made until then."""

    status: int | None
    seconds: float
    said: str
    stage: str
    events: list[str]


def server_process(*command: str) -> subprocess.Popen[str]:
    """A script that forks what its stdin asks for; one thread a process, and no threads of tokenizers to fork."""
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )


class CrashServer:
    """The client's side: `with CrashServer(folder) as server: server.run("train", ...)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> CrashServer:
        self._process = server_process(__file__, str(self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, *argv: object, cwd: Path, **faults: Any) -> Ended:
        """Runs `penstock ARGV` in a process of its own."""
        return self._ends([{"argv": [str(part) for part in argv], "cwd": str(cwd), **faults}])[0]

    def run_ranks(
        self,
        *argv: object,
        cwd: Path,
        own: Sequence[Sequence[object]] = ((), ()),
        faults: Mapping[int, Mapping[str, Any]] | None = None,
        limit: float = 4 * LIMIT,
    ) -> list[Ended]:
        """Runs `penstock ARGV` as ranks, each with arguments of its `own`, and faults by rank. They have so many
        seconds to end, and `LIMIT` once one was killed."""
        commands = [
            {
                "argv": [str(part) for part in (*argv, *more)],
                "cwd": str(cwd),
                "variables": variables,
                "limit": limit,
                **(faults or {}).get(rank, {}),
            }
            for rank, (variables, more) in enumerate(zip(torchrun_variables(len(own)), own, strict=True))
        ]
        return self._ends(commands)

    def _ends(self, commands: list[dict[str, Any]]) -> list[Ended]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(commands) + "\n")
        self._process.stdin.flush()
        ends = json.loads(self._process.stdout.readline())
        return [self._ended(number, *end) for number, end in enumerate(ends)]

    def _ended(self, number: int, status: int | None, seconds: float) -> Ended:
        said, stack, events = ((self.folder / f"{name}-{number}").read_text() for name in ("said", "stack", "events"))
        return Ended(status, seconds, said, stage_of(stack), events.splitlines())


@dataclass(frozen=True, slots=True)
class Life:
    """A run that was killed and resumed: how the killed process ended, how the resumed one did, and the run. With
    several ranks: how the others ended, and of the resumed the first that failed."""

    killed: Ended
    resumed: Ended
    run: Path
    others: Sequence[Ended] = ()


def kill_and_resume(server: CrashServer, config_file: Path, folder: Path, **faults: Any) -> Life:
    """Trains in `folder` with faults, then with `--resume auto` and none, unless there is nothing left to do."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["train", config_file, "--runs", "runs", "--resume", "auto"]
    killed = server.run(*command, cwd=folder, **faults)
    resumed = killed if is_done(folder) else server.run(*command, cwd=folder)
    (run,) = folder.glob("runs/*/2*")
    return Life(killed, resumed, run)


def kill_rank_and_resume(
    server: CrashServer, config_file: Path, folder: Path, *settings: str, rank: int = 0, **faults: Any
) -> Life:
    """The same with two ranks, of which one gets the faults."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["train", config_file, *settings, "--runs", "runs", "--resume", "auto"]
    ends = server.run_ranks(*command, cwd=folder, faults={rank: faults})
    resumed = ends if is_done(folder) else server.run_ranks(*command, cwd=folder)
    (run,) = folder.glob("runs/*/2*")
    failed = next((end for end in resumed if end.status != 0), resumed[0])
    return Life(ends[rank], failed, run, [end for number, end in enumerate(ends) if number != rank])


def is_done(folder: Path) -> bool:
    return any('"finished"' in path.read_text() for path in folder.glob("runs/*/2*/status.json"))


def kill_points(generator: random.Random, seconds: float) -> Iterator[dict[str, Any]]:
    """Moments to kill at, without end: half of them anywhere in a life of so many seconds, half inside stages taken in
    turn. Some come too late, because a process may be quicker than that."""
    for name, (times, longest) in itertools.cycle(AIMS.items()):
        yield {"seconds": generator.uniform(0, seconds)}
        yield {"stage": name, "nth": generator.randint(1, times), "delay": generator.uniform(0, longest)}


def rank_kill_points(generator: random.Random, seconds: float, ranks: int = 2) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same with the rank to kill, each as often as the others. A rank computes its share of the micro-batches."""
    for name, (times, longest) in itertools.cycle(AIMS.items()):
        yield generator.randrange(ranks), {"seconds": generator.uniform(0, seconds)}
        nth = generator.randint(1, times // ranks if times == STEPS * MICRO_BATCHES else times)
        rank = 0 if name in RANK_0_ALONE else generator.randrange(ranks)
        yield rank, {"stage": name, "nth": nth, "delay": generator.uniform(0, longest)}


def stage_of(stack: str) -> str:
    """The stage of faulthandler's dump of a stack, most recent call first."""
    ours = re.findall(r'File "\S*penstock\S*", line \d+ in (\w+)', stack)
    return next((STAGES[name] for name in ours if name in STAGES), "start-up")


def outcome(run: Path) -> dict[str, Any]:
    """Everything that must not depend on kills: weights, optimizer state, metrics without clock readings, the trace."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    newest = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    arrays = {}
    if (run / "trace" / "train.npz").exists():  # not of a dense model
        with np.load(run / "trace" / "train.npz") as trace:
            arrays = {name: torch.from_numpy(trace[name]) for name in trace.files}
    return {
        "step": newest.name,
        "weights": {str(file.relative_to(newest)): load_file(file) for file in newest.rglob("*.safetensors")},
        "engine": torch.load(newest / "engine.pt"),
        "metrics": [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in rows],
        "trace": arrays,
    }


def differences(one: Any, two: Any) -> list[str]:
    """Where two outcomes differ by as much as a bit; empty where they do not."""
    import torch
    from torch.utils._pytree import keystr, tree_flatten_with_path

    flat, flat_too = (dict(tree_flatten_with_path(each)[0]) for each in (one, two))
    same = [
        path
        for path in flat.keys() & flat_too.keys()
        if (
            torch.equal(flat[path], flat_too[path])
            if isinstance(flat[path], torch.Tensor)
            else flat[path] == flat_too[path]
        )
    ]
    return sorted(keystr(path) for path in (flat.keys() | flat_too.keys()) - set(same))


# ---------------------------------------------------------------------------------------------- the server's side


def serve(folder: Path) -> None:
    """Reads a line of commands from stdin, runs each in a forked child, all at once, and answers [status, seconds] of
    each. What one child had to import is imported here afterwards, so that no other child has to."""
    known = set(sys.modules)
    for line in sys.stdin:
        commands = json.loads(line)
        if any("train.engine=fsdp2" in command["argv"] for command in commands):
            importlib.import_module("torch._dynamo")  # torch does, for cut tensors: each rank would, for seconds
        children = [Child(folder, number, command, known) for number, command in enumerate(commands)]
        for child in children:
            if "at" in child.command:
                child.kill_at(child.command["at"])
        ends = ends_of(children)
        for child in children:
            for module in child.imported():
                with contextlib.suppress(Exception):  # some are made, not imported
                    importlib.import_module(module)
        known |= sys.modules.keys()
        print(json.dumps(ends), flush=True)  # noqa: T201


class Child:
    """A forked process that runs a command; its logs are files of this number."""

    def __init__(self, folder: Path, number: int, command: dict[str, Any], known: set[str]) -> None:
        self.command, self.begun, self.was_killed = command, time.monotonic(), False
        self.files = {name: folder / f"{name}-{number}" for name in ("said", "stack", "events", "modules")}
        logs = {name: path.open("wb", buffering=0) for name, path in self.files.items()}
        faulthandler.register(signal.SIGUSR1, file=logs["stack"])
        self.reached, reach = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.reached)
            run_child(command, reach, logs, known)
        os.close(reach)
        for log in logs.values():
            log.close()

    def kill_at(self, at: dict[str, Any]) -> None:
        """Kills it after some seconds, or some after it has said that it reached its stage; it may end before."""
        if "stage" in at:
            if not os.read(self.reached, 1):
                return
            time.sleep(at["delay"])
        elif select.select([self.reached], [], [], at["seconds"])[0]:
            return
        os.kill(self.pid, signal.SIGUSR1)
        deadline = time.monotonic() + 0.05
        while not self.files["stack"].stat().st_size and time.monotonic() < deadline:
            time.sleep(0.0002)
        os.kill(self.pid, signal.SIGKILL)
        self.was_killed = True

    def imported(self) -> list[str]:
        return self.files["modules"].read_text().split()


def ends_of(children: list[Child]) -> list[tuple[int | None, float]]:
    """Status and seconds of each child. One that outlives its limit, which is short once another was killed, is killed,
    and has no status."""
    ends: dict[int, tuple[int | None, float]] = {}
    late: set[int] = set()
    asked = time.monotonic()
    while len(ends) < len(children):
        now = time.monotonic()
        for child in children:
            if child.pid in ends or not (waited := os.waitpid(child.pid, os.WNOHANG))[0]:
                continue
            status = None if child.pid in late else os.waitstatus_to_exitcode(waited[1])
            ends[child.pid] = status, now - child.begun
            os.close(child.reached)
        killed = any(child.was_killed for child in children)
        for child in children:
            limit = min(asked + LIMIT if killed else math.inf, child.begun + child.command.get("limit", math.inf))
            if child.pid not in ends and now > limit:
                late.add(child.pid)
                os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.001)
    return [ends[child.pid] for child in children]


def run_child(command: dict[str, Any], reach: int, logs: dict[str, Any], known: set[str]) -> None:
    os.dup2(logs["said"].fileno(), 1)
    os.dup2(logs["said"].fileno(), 2)
    os.chdir(command["cwd"])
    os.environ.update(command.get("variables", {}))
    status = 70
    try:
        inject(command, reach, logs["events"].fileno())
        main(command["argv"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):  # the limit of file sizes holds here too
            sys.stdout.flush()
            sys.stderr.flush()
            logs["modules"].write("\n".join(sys.modules.keys() - known).encode())
        os._exit(status)


def inject(command: dict[str, Any], reach: int, events: int) -> None:
    sys.argv = ["penstock", *command["argv"]]
    watch_files(command["cwd"], command.get("event"), events)
    points: list[tuple[str, int, Callable[[], Any]]] = [
        (name, nth, partial(os.kill, os.getpid(), number)) for name, nth, number in command.get("signals", [])
    ]
    if "stage" in command.get("at", {}):
        points.append((command["at"]["stage"], command["at"]["nth"], partial(os.write, reach, b"!")))
    if points:
        watch_calls(points)
    if "file_size" in command:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if command.get("fatal") else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (command["file_size"],) * 2)
        sys.dont_write_bytecode = True  # Python takes a file that the limit cut short for a whole one
    if "clock" in command:
        shift_clock(command["clock"])


def watch_calls(points: list[tuple[str, int, Callable[[], Any]]]) -> None:
    """Does something when a function of penstock is entered the n-th time."""
    counts: dict[str, int] = {name: 0 for name, *_ in points}

    def on_call(frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_name
        if event == "call" and name in counts and OURS.search(frame.f_code.co_filename):
            counts[name] += 1
            for wanted, nth, action in points:
                if (wanted, nth) == (name, counts[name]):
                    action()

    sys.setprofile(on_call)


def watch_files(below: str, kill_before: int | None, log: int) -> None:
    """Logs each change of a file below a folder just before it happens, and kills the process before the n-th."""
    count = 0

    def change(name: str, path: str) -> None:
        nonlocal count
        if path.startswith(below):
            if count == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            os.write(log, f"{name} {os.path.relpath(path, below)}\n".encode())

    def path_of(path: Any, folder: int = -1) -> str:
        base = os.getcwd() if folder == -1 else os.readlink(f"/proc/self/fd/{folder}")
        return os.path.join(base, os.fsdecode(path))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        match event, arguments:
            case "open", (str() | bytes() | os.PathLike() as path, _, int() as flags) if flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT
            ):
                change("write", path_of(path))
            case "os.rename", (_, target, _, folder):
                change("rename", path_of(target, folder))
            case (("os.remove" | "os.rmdir" | "os.mkdir"), (path, *_, folder)):
                change(event.removeprefix("os."), path_of(path, folder))
            case _:
                pass

    sync = os.fsync

    def fsync(file: Any) -> None:
        change("fsync", os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}"))
        sync(file)

    os.fsync = fsync
    sys.addaudithook(audit)


def shift_clock(seconds: float) -> None:
    real, readings = time.time, 0

    def shifted() -> float:
        nonlocal readings
        readings += 1
        return real() + (seconds if readings % 2 else -seconds)

    time.time = shifted


if __name__ == "__main__":
    import torch

    from penstock.cli.main import main

    importlib.import_module("penstock.train.training")
    torch.set_num_threads(1)
    serve(Path(sys.argv[1]))
