"""The process of a local worker: `python -m penstock.run.launchers.worker DESCRIPTOR`.

It reads its settings and then jobs from the socket that it inherits, and answers each with an outcome. The modules that
a job imports stay for the next one. A thread waits for the end of the socket: then the launcher has died or closed, and
the worker ends with all processes that it started.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import sys
import threading
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from penstock.hooks.contracts.launching import Job
from penstock.hooks.jobs import outcome_of


def main(descriptor: int) -> None:
    os.set_inheritable(descriptor, False)
    launcher = Connection(descriptor)
    settings: dict[str, Any] = json.loads(launcher.recv_bytes())
    sys.path[:] = settings["path"]
    if settings["cores"]:
        os.sched_setaffinity(0, settings["cores"])
    if settings["memory"] is not None:
        # Not RLIMIT_AS: libraries reserve addresses that they never use.
        resource.setrlimit(resource.RLIMIT_DATA, (settings["memory"],) * 2)
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(launcher, jobs), daemon=True).start()
    while True:
        outcome = outcome_of(settings["function"], Job(**jobs.get()))
        sys.stdout.flush()
        launcher.send_bytes(json.dumps(asdict(outcome)).encode())


def _receive(launcher: Connection, jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    try:
        while True:
            jobs.put(json.loads(launcher.recv_bytes()))
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)  # the group is the worker's own


if __name__ == "__main__":
    main(int(sys.argv[1]))
