"""Launchers that break one law each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from broken.described import described
from penstock.hooks.component import load_attribute
from penstock.hooks.contracts.launching import Job, Outcome

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", __name__, "penstock.conformance.launched"])  # each takes a second to import


def call(function: str, argument: dict[str, Any], answer: Connection) -> None:
    """What a worker does."""
    try:
        answer.send(("done", load_attribute(function)(argument), ""))
    except Exception as error:
        answer.send(("failed", None, str(error)))


class Good:
    """A process a job, all at once."""

    def __init__(self, **_: Any) -> None: ...

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        started = [(job, *self.start(function, job)) for job in jobs]
        try:
            for job, _, answer in started:
                yield self.outcome(job, answer)
        finally:
            for _, process, _ in started:
                self.end(process)

    def start(self, function: str, job: Job) -> tuple[BaseProcess, Connection]:
        answer, theirs = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=call, args=(function, job.argument, theirs), daemon=True)
        process.start()
        theirs.close()
        return process, answer

    def outcome(self, job: Job, answer: Connection) -> Outcome:
        try:
            return Outcome(job.name, *answer.recv())
        except EOFError:
            return Outcome(job.name, "lost", None, "the worker died")

    def end(self, process: BaseProcess) -> None:
        process.kill()
        process.join()


class Forgetful(Good):
    """Drops what is still running when the last job was taken."""

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        outcomes = list(super().run(function, jobs))
        yield from outcomes[:-1]


class Telling(Good):
    """Returns values as text."""

    def outcome(self, job: Job, answer: Connection) -> Outcome:
        outcome: Any = super().outcome(job, answer)
        return replace(outcome, value=str(outcome.value))


class Inside(Good):
    """Calls the function itself."""

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        for job in jobs:
            yield Outcome(job.name, "done", load_attribute(function)(job.argument), "")


class Curt(Good):
    """Does not say why a job failed."""

    def outcome(self, job: Job, answer: Connection) -> Outcome:
        outcome = super().outcome(job, answer)
        return replace(outcome, reason="it raised") if outcome.state == "failed" else outcome


class Blaming(Good):
    """Takes a dead worker for a function that raised."""

    def outcome(self, job: Job, answer: Connection) -> Outcome:
        outcome = super().outcome(job, answer)
        return replace(outcome, state="failed") if outcome.state == "lost" else outcome


class Leaving(Good):
    """Leaves its workers when it is closed."""

    def end(self, process: BaseProcess) -> None: ...


of = described("launcher", "A launcher that breaks one law")
GOOD = of(Good)
BROKEN = {
    "launcher/each-job-has-one-outcome": of(Forgetful),
    "launcher/a-value-is-what-the-function-returned": of(Telling),
    "launcher/jobs-run-in-other-processes": of(Inside),
    "launcher/an-exception-fails-its-job-with-its-text": of(Curt),
    "launcher/a-killed-worker-loses-its-job-alone": of(Blaming),
    "launcher/closing-ends-the-workers": of(Leaving),
}
