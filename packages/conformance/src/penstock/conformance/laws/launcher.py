"""Laws of launchers: each job ends once, in a process of its own worker, whatever happens to that process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.conformance.law import Subject, expect, law, laws_in
from penstock.conformance.laws import general
from penstock.hooks.contracts.launching import Job, Outcome

LAUNCHER = "launcher"
MODULE = "penstock.conformance.launched"
TEXT = "a shape of (3, 4) meets one of (5,)"
BEGUN = 2.0
"""Seconds that a second worker has to begin its job; without it the law is about the first alone."""
ENDED = 10.0
"""Seconds in which a process is gone."""


@law(LAUNCHER, needs=(general.settings_are_arguments_of_the_target,))
def each_job_has_one_outcome(subject: Subject) -> None:
    """A run yields one outcome for each job, in any order, and ends; without jobs it yields nothing.

    Yield what is still running after the last job was taken, and never repeat a job.
    """
    for count in (0, 3):
        jobs = [Job(f"job {number}", {"number": number}) for number in range(count)]
        names = sorted(outcome.name for outcome in _run(subject, "doubled", jobs))
        expect(names == [job.name for job in jobs], f"{count} jobs have the outcomes {names}")


@law(LAUNCHER, needs=(each_job_has_one_outcome,))
def a_value_is_what_the_function_returned(subject: Subject) -> None:
    """A job whose function returns is `done`, with the returned value and no reason.

    Send arguments and values as JSON, and keep each job's name with its value.
    """
    arguments: list[dict[str, Any]] = [{"number": number, "more": [None, 0.1, {"é": "ü"}]} for number in range(2)]
    jobs = [Job(str(argument["number"]), argument) for argument in arguments]
    for outcome in _run(subject, "doubled", jobs):
        expected = {**arguments[int(outcome.name)], "number": 2 * int(outcome.name)}
        expect(outcome == Outcome(outcome.name, "done", expected, ""), f"not {expected}: {outcome}")


@law(LAUNCHER, needs=(a_value_is_what_the_function_returned,))
def jobs_run_in_other_processes(subject: Subject) -> None:
    """The function is not called in the launcher's process.

    Start a worker: what ends a worker must not end the program that waits for it.
    """
    for outcome in _run(subject, "process", [Job("where", {})]):
        expect(outcome.value and outcome.value["pid"] != os.getpid(), "the job ran in the launcher's process")


@law(LAUNCHER, needs=(jobs_run_in_other_processes,))
def an_exception_fails_its_job_with_its_text(subject: Subject) -> None:
    """A job whose function raises is `failed`, has no value, and its reason contains the exception's text.

    Catch `Exception` around the call in the worker; the jobs after it are done.
    """
    outcome = _between(subject, {"how": "raises", "text": TEXT})
    expect((outcome.state, outcome.value) == ("failed", None), f"the job that raised is {outcome}")
    expect(TEXT in outcome.reason, f"the reason is '{outcome.reason}'")


@law(LAUNCHER, needs=(jobs_run_in_other_processes,))
def a_killed_worker_loses_its_job_alone(subject: Subject) -> None:
    """A job whose worker is killed is `lost`, with a reason, and is not tried again; the other jobs are done.

    Replace the worker. Whether to repeat the job is for the caller to decide, who knows what it has left behind.
    """
    outcome = _between(subject, {"how": "killed"})
    expect((outcome.state, outcome.value) == ("lost", None), f"the job of a killed worker is {outcome}")
    expect(outcome.reason.strip(), "there is no reason")


@law(LAUNCHER, needs=(jobs_run_in_other_processes,))
def closing_ends_the_workers(subject: Subject) -> None:
    """Closing the iterator of outcomes ends all workers, busy or not.

    Write `run` as a generator, and end the workers in a `finally`.
    """
    file = subject.folder / "stays"
    jobs = [Job("quick", {"file": None}), Job("long", {"file": str(file)})]
    outcomes: Any = subject.build(folder=subject.folder).run(f"{MODULE}:stays", jobs)
    pids: list[int] = []
    try:
        pids.append(next(outcomes).value["pid"])
        if _within(BEGUN, file.exists):
            pids.append(int(file.read_text()))
        outcomes.close()
        for pid in pids:
            expect(_within(ENDED, lambda pid=pid: _gone(pid)), "a worker lives after the iterator was closed")
    finally:
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _run(subject: Subject, function: str, jobs: Sequence[Job]) -> list[Outcome]:
    return list(subject.build(folder=subject.folder).run(f"{MODULE}:{function}", iter(jobs)))


def _between(subject: Subject, argument: dict[str, Any]) -> Outcome:
    """How a job with this argument ends, between others that are done."""
    jobs = [Job("before", {"how": "well"}), Job("bad", argument), Job("after", {"how": "well"})]
    outcomes = {outcome.name: outcome for outcome in _run(subject, "ends", jobs)}
    expect(sorted(outcomes) == sorted(job.name for job in jobs), f"the outcomes are of {sorted(outcomes)}")
    bad = outcomes.pop("bad")
    other = [outcome for outcome in outcomes.values() if outcome.state != "done"]
    expect(not other, f"another job is not done: {other[:1]}")
    return bad


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def _gone(pid: int) -> bool:
    """Whether a process has ended. One whose parent has not waited for it has ended too."""
    stat = Path(f"/proc/{pid}/stat")
    with suppress(OSError):
        return stat.read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


LAWS = laws_in(globals())
