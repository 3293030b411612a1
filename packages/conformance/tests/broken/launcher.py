"""Launchers that break one law each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from broken.described import described
from penstock.hooks.component import load_attribute
from penstock.hooks.contracts.launching import Job, Outcome

CALL = """
import json, sys
from penstock.hooks.component import load_attribute
try:
    value, reason = load_attribute(sys.argv[1])(json.load(sys.stdin)), ""
except Exception as error:
    value, reason = None, str(error)
json.dump({"state": "failed" if reason else "done", "value": value, "reason": reason}, sys.stdout)
"""


class Good:
    """A process a job, all at once."""

    def __init__(self, *, folder: Path) -> None:
        self.folder = folder

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        started = [(job, self.start(function, job)) for job in jobs]
        try:
            for job, process in started:
                yield self.outcome(job, process)
        finally:
            for _, process in started:
                self.end(process)

    def start(self, function: str, job: Job) -> subprocess.Popen[bytes]:
        file = self.folder / f"{job.name}.json"
        file.write_text(json.dumps(job.argument))
        with file.open("rb") as stdin:
            return subprocess.Popen([sys.executable, "-c", CALL, function], stdin=stdin, stdout=subprocess.PIPE)

    def outcome(self, job: Job, process: subprocess.Popen[bytes]) -> Outcome:
        answer, _ = process.communicate()
        if process.returncode:
            return Outcome(job.name, "lost", None, f"exit code {process.returncode}")
        return Outcome(job.name, **json.loads(answer))

    def end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()


class Forgetful(Good):
    """Drops what is still running when the last job was taken."""

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        outcomes = list(super().run(function, jobs))
        yield from outcomes[:-1]


class Telling(Good):
    """Returns values as text."""

    def outcome(self, job: Job, process: subprocess.Popen[bytes]) -> Outcome:
        outcome: Any = super().outcome(job, process)
        return replace(outcome, value=str(outcome.value))


class Inside(Good):
    """Calls the function itself."""

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        for job in jobs:
            yield Outcome(job.name, "done", load_attribute(function)(job.argument), "")


class Curt(Good):
    """Does not say why a job failed."""

    def outcome(self, job: Job, process: subprocess.Popen[bytes]) -> Outcome:
        outcome = super().outcome(job, process)
        return replace(outcome, reason="it raised") if outcome.state == "failed" else outcome


class Blaming(Good):
    """Takes a dead worker for a function that raised."""

    def outcome(self, job: Job, process: subprocess.Popen[bytes]) -> Outcome:
        outcome = super().outcome(job, process)
        return replace(outcome, state="failed") if outcome.state == "lost" else outcome


class Leaving(Good):
    """Leaves its workers when it is closed."""

    def end(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0)


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
