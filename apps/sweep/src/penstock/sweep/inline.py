"""The launcher of a sweep that names none: jobs run in this process, one after the other, with all of its threads."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator

from penstock.hooks.contracts.launching import Job, Outcome
from penstock.hooks.jobs import failed_outcome
from penstock.hooks.problems import ProblemError


class Inline:
    """See `penstock.hooks.contracts.launching.Launcher`. A bug keeps its traceback, because it is raised here."""

    def run(self, function: str, jobs: Iterable[Job]) -> Iterator[Outcome]:
        module, _, name = function.partition(":")
        call = getattr(importlib.import_module(module), name)
        for job in jobs:
            try:
                value = call(job.argument)
            except ProblemError as error:
                yield failed_outcome(job, error)
            else:
                yield Outcome(job.name, "done", value, "")
