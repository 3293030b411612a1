"""What workers call in the tests of launchers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from penstock.hooks.problems import failed

calls = 0


def where(argument: dict[str, Any]) -> dict[str, Any]:
    """The process, its calls so far, and what it was started with."""
    global calls
    calls += 1
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    time.sleep(argument.get("seconds", 0))
    return {"pid": os.getpid(), "calls": calls, "cores": cores, "threads": os.environ["OMP_NUM_THREADS"], **argument}


def end(argument: dict[str, Any]) -> dict[str, Any]:
    """Ends as the argument says."""
    match argument["how"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "sys.exit":
            sys.exit(4)
        case "bug":
            raise ValueError("no such shape")
        case "problem":
            raise failed("diverged", "the loss is not a number", "run", "lower the rate")
        case "memory":
            raise MemoryError
        case "no JSON":
            return {"value": {1, 2}}
        case _:
            sys.stdout.write("printed by the job\n")
    return {}


def fill(argument: dict[str, Any]) -> dict[str, Any]:
    """Takes so much memory."""
    return {"bytes": len(bytearray(argument["bytes"]))}


def wait_forever(argument: dict[str, Any]) -> dict[str, Any]:
    """Starts a process of its own, writes both ids to a file, and sleeps."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    file = Path(argument["file"])
    file.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
    file.with_suffix(".part").rename(file)
    time.sleep(600)
    return {}
