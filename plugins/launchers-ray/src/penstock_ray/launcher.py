"""Every job of a sweep is a task of a Ray cluster.

Ray keeps the processes of earlier tasks, so a job does not import torch again. They end when the launcher disconnects,
as it does when it is closed or killed.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from penstock.hooks.contracts.launching import Job, Outcome
from penstock.hooks.jobs import THREADS, outcome_of
from penstock.hooks.problems import Problem, ProblemError


class RayLauncher:
    """See `penstock.hooks.contracts.launching.Launcher`. Each worker writes what it prints to a log in `folder`, which
    has to lie on a file system that all machines share."""

    def __init__(
        self, address: str | None, workers: int, threads: int, memory_gb: float | None, gpus: float, folder: Path
    ) -> None:
        self.address, self.workers, self.threads, self.gpus = address, workers, threads, gpus
        self.folder = folder.resolve()
        self._resources: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpus}
        if memory_gb is not None:
            self._resources["memory"] = round(memory_gb * 2**30)

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """A job is taken from `jobs` when fewer than `workers` wait or run. Raises `ProblemError` where Ray is not
        installed, and where no cluster answers at the address."""
        waiting, ray = iter(jobs), _ray()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._connect(ray)
        try:
            task = ray.remote(max_retries=0, **self._resources)(call)
            running: dict[Any, Job] = {}
            while True:
                while len(running) < self.workers and (job := next(waiting, None)) is not None:
                    running[task.remote(function, job, sys.path, str(self.folder))] = job
                if not running:
                    return
                for reference in ray.wait(list(running))[0]:
                    yield _outcome(ray, reference, running.pop(reference))
        finally:
            ray.shutdown()

    def _connect(self, ray: Any) -> None:
        """With the cluster, or with a new one of this machine. A worker has the variables of its threads before it
        imports anything."""
        variables = dict.fromkeys(THREADS, str(self.threads))
        given: dict[str, Any] = {"runtime_env": {"env_vars": variables}, "log_to_driver": False}
        if self.address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray's makers are told nothing unless asked for
            places = min(self.workers, max(1, _cores() // self.threads))
            given |= {"num_cpus": places * self.threads, "include_dashboard": False}
        try:
            ray.init(address=self.address or "local", **given)
        except ConnectionError as error:
            what, fix = f"no Ray cluster answers at {self.address}", "start one with `ray start --head`"
            raise ProblemError(Problem("no-cluster", what, "launcher.address", f"{fix}, or leave it out")) from error


def call(function: str, job: Job, path: list[str], folder: str) -> dict[str, Any]:
    """What a task does; `path` is where modules are looked for."""
    sys.path[:] = path
    with Path(folder, f"worker-{socket.gethostname()}-{os.getpid()}.log").open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    return asdict(outcome_of(function, job))


def _outcome(ray: Any, reference: Any, job: Job) -> Outcome:
    """A task that raised did so before the function was called; any other error of Ray's means that its process or
    machine is gone."""
    try:
        return Outcome(**ray.get(reference))
    except ray.exceptions.OutOfMemoryError:
        return Outcome(job.name, "lost", None, "Ray killed the worker because memory ran out")
    except ray.exceptions.RayTaskError as error:
        last = str(error).strip().splitlines()[-1]
        return Outcome(job.name, "failed", None, f"the job could not begin ({last})")
    except ray.exceptions.RayError as error:
        return Outcome(job.name, "lost", None, f"the worker died ({str(error).strip().splitlines()[0]})")


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        fix = 'uv add "penstock-ray[ray]"'
        raise ProblemError(Problem("missing-library", "Ray is not installed", "launcher.use", fix)) from None


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
