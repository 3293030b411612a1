"""Every job of a sweep is a job of Slurm.

A job is submitted when fewer than `workers` wait or run. submitit asks the file system for results, and Slurm (`sacct`)
now and then for what became of jobs without one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from penstock.hooks.contracts.launching import Job, Outcome
from penstock.hooks.jobs import THREADS
from penstock.hooks.problems import Problem, ProblemError
from penstock_submitit.call import call

LOOK_EVERY = {"slurm": 1.0, "local": 0.05}
"""Seconds between two looks at the jobs."""
ENDS_WITHIN = 10.0
"""Seconds in which cancelled processes of this machine end; submitit kills them after one."""

Submitted = tuple[submitit.Job[dict[str, Any]], Job]


class SubmititLauncher:
    """See `penstock.hooks.contracts.launching.Launcher`. `folder` has to lie on a file system that all machines share;
    it takes the scripts, arguments, results and logs of the jobs."""

    def __init__(
        self,
        cluster: str,
        workers: int,
        threads: int,
        minutes: int,
        memory_gb: float | None,
        gpus: int,
        partition: str | None,
        account: str | None,
        qos: str | None,
        sbatch: dict[str, str | int | bool],
        setup: Sequence[str],
        folder: Path,
    ) -> None:
        self.cluster, self.workers, self.threads, self.folder = cluster, workers, threads, folder.resolve()
        given = {
            "partition": partition,
            "account": account,
            "qos": qos,
            "mem": memory_gb and f"{round(1024 * memory_gb)}MB",
            "gpus_per_node": gpus or None,
        }
        self._slurm: dict[str, Any] = {
            "job_name": "penstock",
            "time": minutes,
            "cpus_per_task": threads,
            "setup": [*(f"export {name}={threads}" for name in THREADS), *setup],
            "additional_parameters": dict(sbatch),
            **{name: value for name, value in given.items() if value is not None},
        }
        self._local: dict[str, Any] = {"timeout_min": minutes, "gpus_per_node": gpus}

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Takes a job from `jobs` when it can be submitted. Raises `ProblemError` if this machine has no Slurm."""
        executor = self.executor()
        waiting, running = iter(jobs), list[Submitted]()
        self._end_jobs_of_a_killed_launcher(executor)
        try:
            while True:
                while len(running) < self.workers and (job := next(waiting, None)) is not None:
                    with _interrupts_reach_children():
                        running.append((executor.submit(call, function, job, sys.path, self.threads), job))
                if not running:
                    return
                ended = next((each for each in running if each[0].done()), None)
                if ended is None:
                    time.sleep(LOOK_EVERY[self.cluster])
                else:
                    running.remove(ended)
                    yield self._outcome(*ended)
        finally:
            self._cancel([submitted for submitted, _ in running])

    def executor(self) -> submitit.Executor:
        """Submits the jobs. Raises `ProblemError` if this machine has no Slurm."""
        if self.cluster == "local":
            executor = submitit.LocalExecutor(self.folder)
            executor.update_parameters(**self._local)
            return executor
        if submitit.SlurmExecutor.affinity() <= 0:
            what, fix = "this machine has no srun, so it is not part of a Slurm cluster", "start on a login node"
            raise ProblemError(Problem("no-slurm", what, "launcher.cluster", f"{fix}, or set cluster: local"))
        executor = submitit.SlurmExecutor(self.folder)
        executor.update_parameters(**self._slurm)
        return executor

    def _outcome(self, submitted: submitit.Job[dict[str, Any]], job: Job) -> Outcome:
        """A process of this machine has left its result when it ends; a file of a cluster may come seconds later."""
        log = f"its log is {submitted.paths.stderr}"
        if self.cluster == "slurm" or submitted.paths.result_pickle.exists():
            try:
                return Outcome(**submitted.result())
            except FailedJobError as error:  # before the function was called
                last = str(error).split("-" * 22)[1].strip().splitlines()[-1]
                return Outcome(job.name, "failed", None, f"the job could not begin ({last}); {log}")
            except UncompletedJobError:
                pass
        state = "" if self.cluster == "local" else f" in the state {submitted.state}"
        memory = " because memory ran out" if submitted.state == "OUT_OF_MEMORY" else ""
        reason = f"job {submitted.job_id} ended without a result{state}{memory}; {log}"
        return Outcome(job.name, "lost", None, reason)

    def _cancel(self, jobs: Sequence[submitit.Job[Any]]) -> None:
        """Ends jobs, and waits for those of this machine."""
        for job in jobs:
            job.cancel(check=False)
        end = time.monotonic() + ENDS_WITHIN
        while self.cluster == "local" and any(not job.done() for job in jobs) and time.monotonic() < end:
            time.sleep(LOOK_EVERY["local"])

    def _end_jobs_of_a_killed_launcher(self, executor: Any) -> None:
        """A launcher that was killed could not cancel its jobs, which would train beside those of this one."""
        left = [path.name.removesuffix("_submitted.pkl") for path in self.folder.glob("*_submitted.pkl")]
        for number in left:
            job = executor.job_class(self.folder, number)
            if job.paths.result_pickle.exists():
                continue
            if self.cluster == "slurm":
                job.cancel(check=False)
            elif _is_of(int(number), self.folder):
                with suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGINT)
            job.paths.submitted_pickle.unlink(missing_ok=True)


@contextmanager
def _interrupts_reach_children() -> Iterator[None]:
    """submitit ends jobs of this machine by SIGINT. What a script starts in its background ignores that signal, and so
    would the jobs: a process inherits what its parent ignores, but not what its parent handles."""
    main = threading.current_thread() is threading.main_thread()  # which alone may change it
    if not main or signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_of(pid: int, folder: Path) -> bool:
    """Whether a process is one of submitit's for jobs of this folder."""
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b"submitit.local._local" in command and os.fsencode(folder) in command
    return False
