"""What the workers of every launcher share: the call of a job, how it ended, and the variables of their threads."""

from __future__ import annotations

import importlib
import json
import traceback
from typing import Any

from penstock.hooks.contracts.launching import Job, Outcome
from penstock.hooks.problems import ProblemError, disk_problem

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")
"""Variables that hold the number of threads of a process; they count before numpy and torch are imported."""


def outcome_of(function: str, job: Job) -> Outcome:
    """Calls "module:attribute" with the job's argument. Whatever it raises makes the job `failed`; the traceback goes
    to stderr, the log of a worker, unless it is a `ProblemError`, which needs none."""
    try:
        module, _, name = function.partition(":")
        value: dict[str, Any] = getattr(importlib.import_module(module), name)(job.argument)
        return Outcome(job.name, "done", json.loads(json.dumps(value)), "")
    except ProblemError as error:
        return failed_outcome(job, error)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        traceback.print_exc()
        told = f"{type(error).__name__}: {error}".removesuffix(": ")
        problem = disk_problem(error) if isinstance(error, OSError) else None
        reason = f"memory ran out ({told})" if _of_memory(error) else told
        return Outcome(job.name, "failed", None, reason, [problem.as_dict()] if problem else [])


def failed_outcome(job: Job, error: ProblemError) -> Outcome:
    """Of a job whose function raised problems: their places and fixes go with it."""
    reason = "; ".join(problem.what for problem in error.problems)
    return Outcome(job.name, "failed", None, reason, [problem.as_dict() for problem in error.problems])


def _of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; torch has a type of its own for that on GPUs, and none on processors."""
    return isinstance(error, MemoryError) or any(each in str(error) for each in ("allocate memory", "out of memory"))
