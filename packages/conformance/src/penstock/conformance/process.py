"""Asks the same of a component in another process, where strings hash otherwise and nothing was imported or counted."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing

from penstock.conformance.law import expect
from penstock.hooks.registry import Choice

_CHILD = """
import sys
sys.path[:] = {path!r}
import pickle
ask, choice = pickle.load(sys.stdin.buffer)
sys.stdout.write("\\nanswer " + ask(choice))
"""


def told_by_another_process(ask: Callable[[Choice], str], choice: Choice) -> str:
    """What `ask`, a function of a module, returns there: one line. Raises `Violation` where it raises."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    result = subprocess.run(
        [sys.executable, "-c", _CHILD.format(path=sys.path)],
        input=pickle.dumps((ask, choice)),
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    expect(result.returncode == 0, f"another process fails: {result.stderr.decode(errors='replace')[-300:]}")
    return result.stdout.decode().rpartition("\nanswer ")[2]


def told_by_ranks(ask: Callable[[Choice], str], choice: Choice, ranks: int, seconds: float = 120) -> list[str]:
    """What `ask` returns in each of some processes that are started as torchrun starts ranks: one line each. Raises
    `Violation` where one raises, and where they have not ended in so many seconds."""
    given = pickle.dumps((ask, choice))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
        )
        for variables in torchrun_variables(ranks)
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(given)
            process.stdin.close()
            process.stdin = None
        said = [process.communicate(timeout=seconds) for process in processes]
    except subprocess.TimeoutExpired:
        expect(False, f"{ranks} ranks have not ended within {seconds:.0f} s")
        raise
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for rank, (process, (_, error)) in enumerate(zip(processes, said, strict=True)):
        expect(process.returncode == 0, f"rank {rank} fails: {error.decode(errors='replace')[-300:]}")
    return [output.decode().rpartition("\nanswer ")[2] for output, _ in said]


def torchrun_variables(ranks: int) -> list[dict[str, str]]:
    """What torchrun tells each rank of one machine by environment variables, with a port that is free."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
