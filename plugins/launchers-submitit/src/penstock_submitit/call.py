"""What a job does on its machine."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from penstock.hooks.contracts.launching import Job
from penstock.hooks.jobs import THREADS, outcome_of


def call(function: str, job: Job, path: list[str], threads: int) -> dict[str, Any]:
    """Calls "module:attribute" with the job's argument, and returns the outcome as a dict. `path` is where modules are
    looked for.

    submitit turns the signals before a time limit and a preemption into exceptions, which would be taken for the
    function's own. Here they end the process, and the job is lost.
    """
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    sys.path[:] = path
    return asdict(outcome_of(function, job))
